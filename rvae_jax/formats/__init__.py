"""A trained model in the formats of others: StableHLO, ONNX, the author's Keras files, the Hugging Face hub."""
