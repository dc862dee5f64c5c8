"""Pictures of what a model does: grids of images, and the figures of a trained model."""
