"""Checks of single functions, preprocessed images and PLY files."""

import hashlib
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import ply
from pipeline.conditioning.preprocessing import frame_object, has_alpha
from pipeline.errors import CheckpointError
from pipeline.sampling.euler import schedule
from pipeline.trellis import VoxelGrid
from pipeline.trellis.gaussians import hammersley, to_gaussians, to_splats
from pipeline.trellis.layers import patchify, position_embedding, timestep_embedding, unpatchify
from pipeline.trellis.sparse_blocks import SparseConv3d
from pipeline.trellis.voxels import downsample, upsample
from scripts.parity_checks.report import BOUND, Arrays, Golden, Report

ROTATION_BOUND = 2e-4
# The golden frequencies are an exp in float32, which differs by one unit in the last place between processors, and are
# multiplied by times of up to 1000: 2.9e-5 was measured.
TIMESTEP_EMBEDDING_BOUND = 1e-4
WINDOW_SIZE = 8


def _counting(shape: torch.Size, fold: int) -> Tensor:
    """Return 0, 1, 2, ... in the shape that folds into `shape` when blocks of fold^3 cells move into channels.

    With a negative fold, channels move into blocks of cells.
    """
    batch, channels, *grid = shape
    if fold > 0:
        sizes = [batch, channels // fold**3, *(n * fold for n in grid)]
    else:
        sizes = [batch, channels * abs(fold) ** 3, *(n // abs(fold) for n in grid)]
    return torch.arange(int(np.prod(sizes))).reshape(sizes)


def _convolve(arrays: Arrays, grid: VoxelGrid) -> Tensor:
    out_channels, *_, in_channels = arrays["conv_w"].shape
    layer = SparseConv3d(in_channels, out_channels)
    layer.conv.load_state_dict({"weight": arrays["conv_w"], "bias": arrays["conv_b"]})
    return layer(arrays["sp_feats"], grid)


def _compute_unit(name: str, arrays: Arrays) -> tuple[Any, float] | None:
    """Compute our value of a golden array, and the bound on its error; None if the name is unknown."""
    number = [int(n) for n in re.findall(r"\d+", name)]
    if name == "t_emb256":
        return timestep_embedding(arrays["t_in"]), TIMESTEP_EMBEDDING_BOUND
    if re.fullmatch(r"pos_emb_\d+", name):
        return position_embedding(arrays["pos_in"], number[0]), BOUND
    if stated := re.fullmatch(r"tseq_(\d+)_([\d.]+)", name):
        return schedule(int(stated[1]), float(stated[2])), BOUND
    if re.fullmatch(r"hammersley\d+", name):
        return hammersley(number[0]), BOUND
    if re.fullmatch(r"patchify\d+", name):
        return patchify(_counting(arrays[name].shape, number[0]), number[0]), 0.0
    if re.fullmatch(r"(unpatchify|pixel_shuffle)\d+", name):
        return unpatchify(_counting(arrays[name].shape, -number[0]), number[0]), 0.0
    if "sp_coords" not in arrays:
        return None
    grid = VoxelGrid(arrays["sp_coords"])
    if name == "down_coords":
        return grid.pooling.coarse.coords, 0.0
    if name in ("down_feats", "up_feats"):
        coarse = downsample(arrays["sp_feats"], grid.pooling)
        return coarse if name == "down_feats" else upsample(coarse, grid.pooling), BOUND
    if name == "conv_out":
        return _convolve(arrays, grid), BOUND
    if re.fullmatch(r"win_(id|len)_shift\d+", name):
        window_ids = grid.windows(WINDOW_SIZE, number[0]).segment_ids
        return window_ids if "id" in name else torch.bincount(window_ids), 0.0
    return None


def check_units(file: str, arrays: Arrays, report: Report) -> set[str]:
    """Check every array of a file of unit results; return the names that are known."""
    used = {"t_in", "pos_in", "sp_coords", "sp_feats", "conv_w", "conv_b"}
    for name in arrays.keys() - used:
        if (unit := _compute_unit(name, arrays)) is not None:
            value, bound = unit
            report.compare(f"{file}: {name}", value, arrays[name], bound)
            used.add(name)
    return used


def _open_image(golden: Golden, file: str) -> Image.Image:
    with Image.open(golden.directory / file) as opened:
        opened.load()
    return opened


def check_image(file: str, golden: Golden, report: Report) -> None:
    """Check a preprocessed image exactly; one without real alpha depends on a background model and is skipped."""
    source = _open_image(golden, file)
    if not has_alpha(source):
        report.skipped.append(file)
        return
    result = file.replace("_in.png", "_out.png")
    expected = _open_image(golden, result)
    if "sha256_pixels" in golden.files.get(result, {}):
        digest = hashlib.sha256(expected.tobytes()).hexdigest()
        report.compare_exactly(f"{result}: sha256_pixels", digest, golden.files[result]["sha256_pixels"])
    report.compare_exactly(f"{file}: picture", frame_object(source), expected)


def _read_columns(data: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """Return header and columns of a PLY file of float32 properties."""
    header, _, body = data.partition(b"end_header\n")
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property")]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    return header, dict(zip(names, table.T, strict=True))


def _align_signs_of_ties(columns: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return our rotations with the golden sign where rounding decides which entry is the largest, and so the sign."""
    names = [f"rot_{i}" for i in range(4)]
    q, expected = (np.stack([table[name] for name in names], axis=1) for table in (columns, golden))
    magnitudes = np.sort(np.abs(expected), axis=1)
    is_tie = magnitudes[:, 3] - magnitudes[:, 2] < ROTATION_BOUND
    flip = is_tie & ((q * expected).sum(axis=1) < 0)
    return dict(zip(names, np.where(flip[:, None], -q, q).T, strict=True))


def check_ply(file: str, golden: Golden, report: Report) -> None:
    """Check the PLY file of the gaussian decoder's golden result: the header, then each column."""
    sources = [name for name in golden.files if name.endswith(".npz") and "net_out" in golden.arrays(name)]
    if not sources:
        raise CheckpointError(f"{file} needs a file with net_out, which the manifest does not have")
    source = sources[0]
    arrays = golden.arrays(source)
    decoder, grid = golden.network(source, "SLatGaussianDecoder"), VoxelGrid(arrays["coords"])
    raw = decoder(arrays["feats"], grid)
    gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config)
    golden_header, golden_columns = _read_columns((golden.directory / file).read_bytes())
    header, columns = _read_columns(ply.to_bytes(to_splats(gaussians)))
    report.compare_exactly(f"{file}: header", header, golden_header)
    if "rot_0" in golden_columns and len(columns["rot_0"]) == len(golden_columns["rot_0"]):
        columns |= _align_signs_of_ties(columns, golden_columns)
    for name, expected in golden_columns.items():
        bound = ROTATION_BOUND if name.startswith("rot_") else BOUND
        report.compare(f"{file}: {name}", columns.get(name, []), expected, bound)
