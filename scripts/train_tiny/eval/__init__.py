"""Held-out samples, the checkpoint under test, and the metrics that compare its results with the objects."""
