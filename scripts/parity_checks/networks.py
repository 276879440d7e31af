"""Checks of each network's output for the golden input; they return the names of the arrays they account for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.trellis import VoxelGrid
from pipeline.trellis.gaussians import offset_perturbation, to_gaussians
from pipeline.trellis.structure_decoder import occupied_voxels
from scripts.parity_checks.report import HALF_BOUND, STRUCTURE_DECODER_BOUND, Arrays, Golden, Report, record_taps


def _check_half(name: str, file: str, arrays: Arrays, report: Report, network: Any, run: Callable[[], Tensor]) -> None:
    """Compare what the network returns in half precision, if there is such an array; it stays in half precision."""
    if name in arrays:
        network.to_precision(torch.float16)
        report.compare(f"{file}: {name}", run(), arrays[name], HALF_BOUND)


def _check_velocity(file: str, arrays: Arrays, report: Report, network: Any, run: Callable[[], Tensor]) -> set[str]:
    with record_taps(network, arrays) as outputs:
        y = run()
    for name, output in outputs.items():
        report.compare(f"{file}: {name}", output, arrays[name])
    report.compare(f"{file}: y", y, arrays["y"])
    _check_half("y_fp16mode", file, arrays, report, network, run)
    return {"y", "y_fp16mode", *outputs}


def check_structure_flow(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check the velocity on a dense grid, in full and in half precision."""
    flow = golden.network(file, "SparseStructureFlowModel")
    x, t, cond = arrays["x"], arrays["t"], arrays["cond"]
    return {"x", "t", "cond"} | _check_velocity(file, arrays, report, flow, lambda: flow(x, t, cond))


def check_latent_flow(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check the velocity on voxels, and the coarser voxels that it attends over."""
    flow, grid = golden.network(file, "SLatFlowModel"), VoxelGrid(arrays["coords"])
    if "down_coords" in arrays:
        report.compare_exactly(f"{file}: down_coords", grid.pooling.coarse.coords, arrays["down_coords"])
    feats, t, cond = arrays["feats"], arrays["t"], arrays["cond"]
    inputs = {"feats", "coords", "t", "cond", "down_coords"}
    return inputs | _check_velocity(file, arrays, report, flow, lambda: flow(feats, grid, t, cond))


def check_structure_decoder(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check logits, coordinates from the golden logits, and from ours where the golden logit is clearly not 0."""
    expected, decoder = arrays["logits"], golden.network(file, "SparseStructureDecoder")
    logits = decoder(arrays["z"])
    report.compare(f"{file}: logits", logits, expected, STRUCTURE_DECODER_BOUND)
    if "coords" in arrays:
        coords = arrays["coords"]
        report.compare_exactly(f"{file}: coords from golden logits", occupied_voxels(expected), coords)
        occupied = torch.zeros_like(expected[:, 0], dtype=torch.bool)
        occupied[tuple(coords.long().T)] = True
        is_clear = expected[:, 0].abs() > STRUCTURE_DECODER_BOUND * expected.abs().max()
        report.compare_exactly(f"{file}: coords", (logits[:, 0] > 0)[is_clear], occupied[is_clear])
    _check_half("logits_fp16mode", file, arrays, report, decoder, lambda: decoder(arrays["z"]))
    return {"z", "logits", "coords", "logits_fp16mode"}


def check_decoder_of_sampler(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check the decoder on the structure sampler's result: every seventh logit, and all signs as packed bits."""
    decoder = golden.network(file, "SparseStructureDecoder")
    logits = decoder(golden.arrays("ss_sampler.npz")["samples"]).flatten()
    report.compare(f"{file}: logits_every7", logits[::7], arrays["logits_every7"], STRUCTURE_DECODER_BOUND)
    occupied = np.unpackbits(arrays["bits"].numpy())[: len(logits)].astype(bool)
    is_clear = (logits.abs() > STRUCTURE_DECODER_BOUND * logits.abs().max()).numpy()
    report.compare_exactly(f"{file}: bits", (logits > 0).numpy()[is_clear], occupied[is_clear])
    return {"bits", "logits_every7"}


def check_gaussian_decoder(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check the raw channels, then the gaussians' attributes, activations and offsets."""
    decoder, grid = golden.network(file, "SLatGaussianDecoder"), VoxelGrid(arrays["coords"])
    with record_taps(decoder, arrays) as outputs:
        raw = decoder(arrays["feats"], grid)
    gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config)
    results = {
        **outputs, "net_out": raw, "offset_perturbation": offset_perturbation(decoder.config),
        "xyz_raw": gaussians.xyz, "features_dc_raw": gaussians.features_dc[:, None], "scaling_raw": gaussians.scaling,
        "rotation_raw": gaussians.rotation, "opacity_raw": gaussians.opacity[:, None],
        "get_xyz": gaussians.positions, "get_scaling": gaussians.scales, "get_rotation": gaussians.quaternions,
        "get_opacity": gaussians.opacities[:, None],
    }  # fmt: skip
    if "sel" in arrays:
        results["net_out_sel"] = raw[:, arrays["sel"]]
    for name in sorted(results.keys() & arrays.keys()):
        report.compare(f"{file}: {name}", results[name][: len(arrays[name])], arrays[name])
    if "offset_perturbation" in arrays:
        stored = decoder.offset_perturbation
        report.compare(f"{file}: offset_perturbation in the weights", stored, arrays["offset_perturbation"])
    _check_half("net_out_fp16mode", file, arrays, report, decoder, lambda: decoder(arrays["feats"], grid))
    return {"coords", "feats", "sel", "net_out_fp16mode", *results}
