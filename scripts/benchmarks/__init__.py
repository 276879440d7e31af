"""Benchmarks of generation, file formats and scoring, with records of what they measured on which machine."""
