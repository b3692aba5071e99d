"""Holds progressive unfreezing: schedules as pure data, the callback that applies them, groups for the optimizer."""
