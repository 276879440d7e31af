"""The axon, over which validators push tasks, and its protection against everyone else."""
