"""Pages on trained models: the report and the model card."""
