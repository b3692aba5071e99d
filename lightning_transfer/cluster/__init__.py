"""What long runs on shared machines need: safe checkpoints, preemption, restarts."""
