"""The run of an experiment: its folder, checkpoints, record and progress."""
