import os

# Before torch is imported; see neurons/miner.py. Tests run beside each other, and what they compute is small: several
# threads of torch would mostly wait for one another.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first where several processes share them, or one would be left with a long one."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Keep the half million objects of imported modules from the garbage collector, which models are loaded with."""
    gc.collect()
    gc.freeze()


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
