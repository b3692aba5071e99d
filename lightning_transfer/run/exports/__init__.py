"""Writes a trained classifier for programs without this package, checked against the module it came from."""
