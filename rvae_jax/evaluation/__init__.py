"""How good a trained model is, and what is wrong with it."""
