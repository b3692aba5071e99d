"""Writes pages about runs and studies, and draws their figures."""
