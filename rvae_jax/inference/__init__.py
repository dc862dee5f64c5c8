"""A trained model in use: encode, decode, reconstruct, sample."""
