"""Runs in trackers of other projects: Weights & Biases, MLflow and a table of metrics."""
