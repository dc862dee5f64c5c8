"""What a configuration needs, found out before the hardware for it is rented."""
