"""Evaluation of a trained model, and diagnosis of its problems.

``evaluator`` calls the parts: ``material`` makes everything that is measured; ``quality``, ``feature_distances``,
``latent_space``, ``copying`` and ``bounds`` measure it by the formulas of ``metrics``; ``results`` holds the figures.
"""
