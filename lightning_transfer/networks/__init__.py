"""Plain ``torch.nn`` networks with named layer groups. Knows nothing of data or Lightning."""
