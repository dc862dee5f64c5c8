"""Bytes on which a reader of foreign files ends badly: ``python -m benchmarks.faults.fuzz``."""
