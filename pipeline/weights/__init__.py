"""Weights on disk: where they are, how they are downloaded and checked, and how checkpoints are written."""
