"""Makes ``making`` importable from all tests below this folder."""
