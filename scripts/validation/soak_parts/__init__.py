"""The parts of `python -m scripts.validation.soak`: validators, faults, the miner that has them, and the accounts."""
