"""Finds and opens pictures: files of any kind, those that tables name, encoded bytes, and arrays of numbers."""
