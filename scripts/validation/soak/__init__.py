"""Everything at once: validators, faults, the miner that has them, and the accounts of what became of each task."""
