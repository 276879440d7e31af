import os

# Before torch is imported; see neurons/miner.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

from pipeline import Generator, choose


@pytest.fixture(scope="session")
def generator() -> Generator:
    """The embedded checkpoint on the CPU in float32, with the demo's background model."""
    return Generator.load("embedded", choose("cpu"), background_model="u2netp")
