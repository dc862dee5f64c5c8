"""How good images and codes are: similarity, distances between sets of images, the state of the latent space.

Each module has one family of figures; all are functions of arrays. ``rvae_jax.evaluate`` runs them on a trained model.
"""
