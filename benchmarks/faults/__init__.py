"""What survives damage, kills and full disks: ``python -m benchmarks.faults``."""
