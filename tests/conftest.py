import os

# Before torch is imported; see neurons/miner.py.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import signal
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline import CheckpointSource, Generator, choose_compute
from tests.support.text_checkpoint import write_text_checkpoint

# What a shell starts in the background ignores SIGINT, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The GPU machine does without it.
if find_spec("hypothesis") is not None:
    from hypothesis import settings

    # Examples take as long as a busy machine lets them.
    settings.register_profile("suite", deadline=None)
    settings.load_profile("suite")


@pytest.fixture(scope="session")
def generator() -> Generator:
    """The embedded checkpoint on the CPU in float32, with the demo's background model."""
    return Generator.load(choose_compute("cpu"), image=CheckpointSource("embedded"), background_models=["u2netp"])


@pytest.fixture(scope="session")
def tiny_text_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small checkpoint for sentences of upstream's architecture, with random weights, which make no
    object; not to be written to."""
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny-text"
    write_text_checkpoint(directory)
    return directory
