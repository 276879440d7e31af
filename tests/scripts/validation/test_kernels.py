"""A small version of scripts.validation.kernels, where Triton is installed: no GPU is needed."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.process,
    pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton"),
]

# Heads of 80 channels need the most registers.
COMMAND = ["--checkpoint", "text-xlarge", "--dtype", "float16", "--capability"]
LARGE_BLOCKS = """
import sys
from pipeline.fused import attention
from scripts.validation.kernels import main
attention._SMALL_BLOCK = 64
sys.exit(main())
"""


def run(*arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Run in a process of its own, since in this one the kernels may be the interpreter's."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode in (0, 1), result.stderr
    return result.returncode, json.loads(result.stdout.splitlines()[-1])


def written_kernels() -> set[str]:
    modules = (path.read_text() for path in (ROOT / "pipeline").rglob("*.py"))
    return {name for text in modules for name in re.findall(r"@triton\.jit.*\ndef (\w+_kernel)\(", text)}


@pytest.mark.parametrize("capability", ["8.6", "9.0"])
def test_every_kernel_fits_the_card(capability: str) -> None:
    code, kernels = run("-m", "scripts.validation.kernels", *COMMAND, capability)
    assert [kernel for kernel in kernels if not kernel["fits"]] == []
    assert code == 0
    # Cards before Hopper have no 8-bit products.
    expected = written_kernels() - ({"_gelu_fp8_kernel"} if capability == "8.6" else set())
    assert {kernel["kernel"] for kernel in kernels} == expected


def test_a_kernel_that_spills_registers_is_named() -> None:
    code, kernels = run("-c", LARGE_BLOCKS, *COMMAND, "8.6")
    assert code == 1
    assert {kernel["kernel"] for kernel in kernels if not kernel["fits"]} == {"_attention_kernel"}
