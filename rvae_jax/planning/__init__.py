"""What a configuration needs, known before the hardware for it is rented."""
