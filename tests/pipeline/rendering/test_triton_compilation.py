"""The rasterizer's kernels compile for every GPU that Triton supports, also where there is none."""

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.process]

# Shared memory that a block may use: 99 KiB on consumers' cards.
SMALLEST_LIMIT = 99 * 1024
# In a process of its own, since in this one the kernels may be the interpreter's.
COMPILE = """
import json, sys
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from pipeline.rendering import triton_rasterizer as rasterizer, kernels

F, I, L, i, l = "*fp32", "*i32", "*i64", "i32", "i64"
TILE, BLOCK = {"TILE": rasterizer.TILE}, {"BLOCK": rasterizer.BLOCK}
STEPS = {"STEP": rasterizer.STEP, "UNROLL": rasterizer.UNROLL}
SOURCES = [
    (kernels.project_kernel, [F] * 6 + [L, F, F, I, I, I, i, i, i, i], TILE | BLOCK, {"enable_fp_fusion": False}),
    (kernels.pair_kernel, [I, I, I, L, "*i16", I, i, l, l, l, i, i], BLOCK, {}),
    (kernels.composite_kernel, [F, I, I, F, i, i, i, i], TILE | STEPS, {"num_warps": 1, "enable_fp_fusion": True}),
]
shared = {}
for kernel, types, constants, options in SOURCES:
    signature = dict(zip(kernel.arg_names, types + ["constexpr"] * len(constants), strict=True))
    constexprs = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    compiled = compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32), options=options)
    assert compiled.asm["cubin"]
    shared[kernel.__name__] = compiled.metadata.shared
print(json.dumps(shared))
"""


@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 120])
def test_compiles_within_the_shared_memory_of_each_card(capability: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.returncode == 0, result.stderr
    shared = json.loads(result.stdout.splitlines()[-1])
    assert max(shared.values()) <= SMALLEST_LIMIT, shared
