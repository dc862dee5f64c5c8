"""Makes ``archives`` importable from the tests in this folder."""
