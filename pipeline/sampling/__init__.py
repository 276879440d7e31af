"""Sampling: the Euler solver, the flow models' velocities and the steps from a prompt's conditions to an object."""
