"""Callbacks that show in TensorBoard, and in other loggers, what transfer learning is doing."""
