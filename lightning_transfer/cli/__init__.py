"""The command line: what a user types, and one line for each mistake."""
