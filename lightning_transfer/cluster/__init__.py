"""Support for long runs on shared machines: sharding, preemption and restarts."""
