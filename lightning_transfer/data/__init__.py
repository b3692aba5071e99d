"""Makes batches from a Hub id, a mirror or a folder. This package does not import networks."""
