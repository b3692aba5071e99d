"""The parts of scripts/soak: what its commands do, what their processes hold, and the figures of that."""
