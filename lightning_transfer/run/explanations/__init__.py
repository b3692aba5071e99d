"""Explains the predictions of a run, and checks that the explanations follow from the network."""
