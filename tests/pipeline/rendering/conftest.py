"""Where Triton is installed without a GPU, its kernels run in its interpreter."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if find_spec("triton") is None:
    collect_ignore = [path.name for path in Path(__file__).parent.glob("test_gpu_*.py")]
elif not torch.cuda.is_available():
    # Read by Triton when the kernels are defined.
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
