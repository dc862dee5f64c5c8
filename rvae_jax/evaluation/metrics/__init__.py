"""Metrics of images and codes, one family per module: functions of arrays that know nothing of a trained model."""
