"""What devices can do, and what a compiled program needs of them."""
