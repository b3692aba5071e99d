"""Holds the command line, which answers each mistake in one line."""
