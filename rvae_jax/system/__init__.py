"""Files, units and logs: what every other folder may use."""
