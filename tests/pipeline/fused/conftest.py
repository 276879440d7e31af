"""Kernels run on a GPU or, where Triton is installed without one, in its interpreter; else their tests are skipped."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_*.py") if path.name != "test_graphs.py"]
elif not torch.cuda.is_available():
    # Read by Triton when the kernels are defined.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
