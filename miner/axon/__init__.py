"""The axon, over which validators push tasks, and its protection against everyone else."""

from miner.axon.server import AxonServer, check_port_free, make_axon

__all__ = ["AxonServer", "check_port_free", "make_axon"]
