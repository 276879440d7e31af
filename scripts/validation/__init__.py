"""Experiments that test claims of the README at full scale, with records of their results."""
