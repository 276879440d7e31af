"""Each network's output for the golden input. A check returns the names of the arrays it accounts for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.trellis import VoxelGrid
from pipeline.trellis.gaussians import offset_perturbation, to_gaussians
from pipeline.trellis.structure_decoder import occupied_voxels
from scripts.parity_checks.report import BOUND, HALF_PRECISION_BOUND, Arrays, Golden, Report, taps


def _velocity(file: str, g: Arrays, report: Report, network: Any, run: Callable[[], Tensor]) -> set[str]:
    with taps(network, g) as seen:
        y = run()
    for name, ours in seen.items():
        report.close(f"{file}: {name}", ours, g[name])
    report.close(f"{file}: y", y, g["y"])
    if "y_fp16mode" in g:
        network.to_precision(torch.float16)
        report.close(f"{file}: y_fp16mode", run(), g["y_fp16mode"], HALF_PRECISION_BOUND)
    return {"y", "y_fp16mode", *seen}


def structure_flow(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Velocity of a dense grid, in full and in half precision."""
    flow = golden.network(file, "SparseStructureFlowModel")
    return {"x", "t", "cond"} | _velocity(file, g, report, flow, lambda: flow(g["x"], g["t"], g["cond"]))


def latent_flow(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Velocity on voxels, and the coarser voxels it attends over."""
    flow, grid = golden.network(file, "SLatFlowModel"), VoxelGrid(g["coords"])
    if "down_coords" in g:
        report.exact(f"{file}: down_coords", grid.pooling.coarse.coords, g["down_coords"])
    inputs = {"feats", "coords", "t", "cond", "down_coords"}
    return inputs | _velocity(file, g, report, flow, lambda: flow(g["feats"], grid, g["t"], g["cond"]))


def structure_decoder(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Logits; coordinates from the golden logits, and from ours where the golden logit is clearly not 0."""
    expected = g["logits"]
    decoder = golden.network(file, "SparseStructureDecoder")
    logits = decoder(g["z"])
    report.close(f"{file}: logits", logits, expected)
    if "coords" in g:
        report.exact(f"{file}: coords from golden logits", occupied_voxels(expected), g["coords"])
        occupied = torch.zeros_like(expected[:, 0], dtype=torch.bool)
        occupied[tuple(g["coords"].long().T)] = True
        sure = expected[:, 0].abs() > BOUND * expected.abs().max()
        report.exact(f"{file}: coords", (logits[:, 0] > 0)[sure], occupied[sure])
    if "logits_fp16mode" in g:
        decoder.to_precision(torch.float16)
        report.close(f"{file}: logits_fp16mode", decoder(g["z"]), g["logits_fp16mode"], HALF_PRECISION_BOUND)
    return {"z", "logits", "coords", "logits_fp16mode"}


def decoder_of_sampler(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """The decoder on the structure sampler's golden result: every seventh logit, and all signs as packed bits."""
    decoder = golden.network(file, "SparseStructureDecoder")
    logits = decoder(golden.arrays("ss_sampler.npz")["samples"]).flatten()
    report.close(f"{file}: logits_every7", logits[::7], g["logits_every7"])
    occupied = np.unpackbits(g["bits"].numpy())[: len(logits)].astype(bool)
    sure = (logits.abs() > BOUND * logits.abs().max()).numpy()
    report.exact(f"{file}: bits", (logits > 0).numpy()[sure], occupied[sure])
    return {"bits", "logits_every7"}


def gaussian_decoder(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Raw channels, then the gaussians' attributes, activations and offsets."""
    decoder, grid = golden.network(file, "SLatGaussianDecoder"), VoxelGrid(g["coords"])
    with taps(decoder, g) as seen:
        raw = decoder(g["feats"], grid)
    gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config)
    results = {
        **seen,
        "net_out": raw,
        "xyz_raw": gaussians.xyz,
        "features_dc_raw": gaussians.features_dc[:, None],
        "scaling_raw": gaussians.scaling,
        "rotation_raw": gaussians.rotation,
        "opacity_raw": gaussians.opacity[:, None],
        "get_xyz": gaussians.positions,
        "get_scaling": gaussians.scales,
        "get_rotation": gaussians.quaternions,
        "get_opacity": gaussians.opacities[:, None],
        "offset_perturbation": offset_perturbation(decoder.config),
    }
    if "sel" in g:
        results["net_out_sel"] = raw[:, g["sel"]]
    for name in sorted(results.keys() & g.keys()):
        report.close(f"{file}: {name}", results[name][: len(g[name])], g[name])
    if "offset_perturbation" in g:
        stored = decoder.offset_perturbation
        report.close(f"{file}: offset_perturbation in the weights", stored, g["offset_perturbation"])
    if "net_out_fp16mode" in g:
        decoder.to_precision(torch.float16)
        half = decoder(g["feats"], grid)
        report.close(f"{file}: net_out_fp16mode", half, g["net_out_fp16mode"], HALF_PRECISION_BOUND)
    return {"coords", "feats", "sel", "net_out_fp16mode", *results}
