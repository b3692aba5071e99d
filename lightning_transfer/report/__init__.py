"""The pages that are written about runs and studies, and how their figures are drawn."""
