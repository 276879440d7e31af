"""Which settings and models a task gets: the applied phase, swaps without a restart, experiments."""
