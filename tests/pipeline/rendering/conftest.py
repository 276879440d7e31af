from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_triton_*.py")]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Pictures this small gain nothing from threads, and on a busy machine these wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
