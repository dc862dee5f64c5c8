"""Pictures: grids of images, and the figures of a trained model."""
