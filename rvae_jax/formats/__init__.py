"""A trained model in formats of other programs: StableHLO, ONNX, the author's Keras files, the Hugging Face hub."""

from typing import Literal

# The functions of ``formats.export`` that write a format. They are named here so that the command's --help is quick.
FORMATS = ("safetensors", "hub", "stablehlo", "onnx", "keras")
Prior = Literal["normal", "fold", "mixture"]  # what the generator draws from, "normal" for no generator
