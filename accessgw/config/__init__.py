"""The configuration file: load, validate, compare."""
