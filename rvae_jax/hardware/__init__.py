"""What is known of devices, and what a compiled program takes of them."""
