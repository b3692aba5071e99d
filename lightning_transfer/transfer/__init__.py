"""Progressive unfreezing: schedules as pure data, one callback that applies them, parameter groups for the optimizer."""
