"""The fused flows on upstream's own inputs, weights and outputs."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.fused.latent_flow import FusedLatentFlow
from pipeline.fused.structure_flow import FusedStructureFlow
from pipeline.params import Conditions
from pipeline.trellis import VoxelGrid
from pipeline.trellis.checkpoint import build_network, load_weights
from tests.support.paths import DATA

# In Triton's interpreter.
pytestmark = pytest.mark.slow
GOLDEN = DATA / "trellis"
MODELS = json.loads((GOLDEN / "manifest.json").read_text())["models"]
# In half precision on a GPU: twice the deviations of upstream's own float16. In the interpreter: GELU is the exact one.
STRUCTURE_BOUND, LATENT_BOUND = (4e-3, 5.2e-3) if torch.cuda.is_available() else (5e-4, 5e-4)


def load(name: str, device: torch.device) -> tuple[Any, dict[str, Tensor]]:
    spec = MODELS[name]
    network = build_network(spec["class"], spec["args"])
    if device.type == "cuda":
        network.to_precision(torch.float16)
    load_weights(network, GOLDEN / spec["weights"], device)
    with np.load(GOLDEN / f"{name}_forward.npz") as archive:
        arrays = {key: torch.from_numpy(archive[key]).to(device) for key in archive.files}
    return network.eval().requires_grad_(False), arrays


def assert_near(ours: Tensor, expected: Tensor, bound: float) -> None:
    assert ours.shape == expected.shape
    difference = float((ours.double() - expected.double()).abs().max() / expected.double().abs().max())
    assert difference < bound, f"off by {difference:.2e}"


@torch.inference_mode()
@pytest.mark.parametrize(("name", "item"), [("slat_flow_img", 0), ("slat_flow_img", 1), ("slat_flow_txt", 0)])
def test_latent_velocity_is_upstream_s(name: str, item: int, device: torch.device) -> None:
    flow, g = load(name, device)
    rows = g["coords"][:, 0] == item
    grid = VoxelGrid.of([g["coords"][rows, 1:]])
    t, cond = float(g["t"][item]) / 1000, g["cond"][item : item + 1]
    fused = FusedLatentFlow(flow, None).prepare([t], Conditions((cond,), None), grid)
    (ours,) = fused(g["feats"][rows], 0, [0])
    assert_near(ours, g["y"][rows], LATENT_BOUND)


@torch.inference_mode()
@pytest.mark.parametrize("item", [0, 1])
@pytest.mark.parametrize("name", ["ss_flow_img", "ss_flow_txt"])
def test_structure_velocity_is_upstream_s(name: str, item: int, device: torch.device) -> None:
    flow, g = load(name, device)
    t, cond, x = float(g["t"][item]) / 1000, g["cond"][item : item + 1], g["x"][item : item + 1]
    fused = FusedStructureFlow(flow, None).prepare([t], Conditions((cond,), None))
    (ours,) = fused(x, 0, [0])
    assert_near(ours, g["y"][item : item + 1], STRUCTURE_BOUND)
