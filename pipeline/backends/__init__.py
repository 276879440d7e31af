"""Backends: implementations of generation that share one interface, and their loading."""
