"""Scores of splats: the validator's quality term, similarity to known views, and the choice among candidates."""
