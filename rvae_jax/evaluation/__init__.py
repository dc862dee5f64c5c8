"""Evaluation of a trained model, and diagnosis of its problems."""
