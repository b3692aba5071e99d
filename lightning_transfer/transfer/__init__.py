"""Progressive unfreezing: schedules as pure data, one callback that applies them, groups for the optimizer."""
