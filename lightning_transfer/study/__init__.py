"""Compares strategies over starting weights, training-set sizes and seeds, on equal terms."""
