"""Runs an experiment: its folder, checkpoints, record and progress."""
