"""The record of what became of each task, in one SQLite file."""
