"""From a Hub id, a mirror or a folder to batches. Knows nothing of networks."""
