"""Files and units: what every other folder may use."""
