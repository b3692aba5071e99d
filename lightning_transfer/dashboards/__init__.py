"""Callbacks that write to TensorBoard what transfer learning is doing, and the report of finished runs."""
