"""Plain ``torch.nn`` networks with named layer groups. This package imports neither data modules nor Lightning."""
