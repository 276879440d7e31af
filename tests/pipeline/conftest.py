"""Kernels run on a GPU or, where Triton is installed without one, in its interpreter; else their tests are skipped."""

import os
from importlib.util import find_spec

import pytest
import torch

if find_spec("triton") is not None and not torch.cuda.is_available():
    # Read by Triton when the kernels are defined.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
