"""The GPU: the models in its memory, and the one thread that works on it."""
