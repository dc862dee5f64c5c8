"""Pages about trained models: the report and the model card."""
