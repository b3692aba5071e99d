"""Answers requests over HTTP with a run's predictions, by LitServe."""
