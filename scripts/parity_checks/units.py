"""Small pieces, pictures and PLY files."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline import ply
from pipeline.conditioning.preprocessing import cut_out, frame_object, has_alpha
from pipeline.errors import CheckpointError
from pipeline.sampling.euler import schedule
from pipeline.trellis import VoxelGrid
from pipeline.trellis.gaussians import hammersley, to_gaussians, to_splats
from pipeline.trellis.layers import position_embedding, timestep_embedding
from pipeline.trellis.sparse_blocks import SparseConv3d
from pipeline.trellis.structure_decoder import pixel_shuffle_3d
from pipeline.trellis.structure_flow import patchify, unpatchify
from pipeline.trellis.voxels import downsample, upsample
from scripts.parity_checks.report import BOUND, Arrays, Golden, Report

ROTATION_BOUND = 2e-4
WINDOW_SIZE = 8


def _counting(shape: torch.Size, fold: int) -> Tensor:
    """0, 1, 2, ... in the shape that folds into `shape` when blocks of fold^3 cells move into channels (or back)."""
    batch, channels, *grid = shape
    if fold > 0:
        sizes = [batch, channels // fold**3, *(n * fold for n in grid)]
    else:
        sizes = [batch, channels * abs(fold) ** 3, *(n // abs(fold) for n in grid)]
    return torch.arange(int(np.prod(sizes))).reshape(sizes)


def _convolution(g: Arrays, grid: VoxelGrid) -> Tensor:
    out_channels, *_, in_channels = g["conv_w"].shape
    layer = SparseConv3d(in_channels, out_channels)
    layer.conv.load_state_dict({"weight": g["conv_w"], "bias": g["conv_b"]})
    result: Tensor = layer(g["sp_feats"], grid)
    return result


def _unit(name: str, g: Arrays) -> tuple[Any, bool] | None:
    """Our value of a golden unit array and whether it must be exact; None if the name is unknown."""
    number = [int(n) for n in re.findall(r"\d+", name)]
    if name == "t_emb256":
        return timestep_embedding(g["t_in"]), False
    if re.fullmatch(r"pos_emb_\d+", name):
        return position_embedding(g["pos_in"], number[0]), False
    if stated := re.fullmatch(r"tseq_(\d+)_([\d.]+)", name):
        return schedule(int(stated[1]), float(stated[2])), False
    if re.fullmatch(r"hammersley\d+", name):
        return hammersley(number[0]), False
    if re.fullmatch(r"patchify\d+", name):
        return patchify(_counting(g[name].shape, number[0]), number[0]), True
    if re.fullmatch(r"unpatchify\d+", name):
        return unpatchify(_counting(g[name].shape, -number[0]), number[0]), True
    if re.fullmatch(r"pixel_shuffle\d+", name):
        return pixel_shuffle_3d(_counting(g[name].shape, -number[0]), number[0]), True
    if "sp_coords" not in g:
        return None
    grid = VoxelGrid(g["sp_coords"])
    if name == "down_coords":
        return grid.pooling.coarse.coords, True
    if name == "down_feats":
        return downsample(g["sp_feats"], grid.pooling), False
    if name == "up_feats":
        return upsample(downsample(g["sp_feats"], grid.pooling), grid.pooling), False
    if name == "conv_out":
        return _convolution(g, grid), False
    if re.fullmatch(r"win_(id|len)_shift\d+", name):
        owner = grid.windows(WINDOW_SIZE, number[0]).segment_ids
        return (owner if "id" in name else torch.bincount(owner)), True
    return None


def units(file: str, g: Arrays, report: Report) -> set[str]:
    """Every array of a file of unit results; returns the names it knows."""
    used = {"t_in", "pos_in", "sp_coords", "sp_feats", "conv_w", "conv_b"}
    for name in g.keys() - used:
        unit = _unit(name, g)
        if unit is not None:
            ours, exact = unit
            compare = report.exact if exact else report.close
            compare(f"{file}: {name}", ours, g[name])
            used.add(name)
    return used


def _image(golden: Golden, file: str) -> Image.Image:
    with Image.open(golden.directory / file) as opened:
        opened.load()
    return opened


def picture(file: str, golden: Golden, report: Report) -> None:
    """A preprocessed picture, exactly; one without real alpha depends on a background model and is skipped."""
    source = _image(golden, file)
    if not has_alpha(source):
        report.skipped.append(file)
        return
    result = file.replace("_in.png", "_out.png")
    expected = _image(golden, result)
    if "sha256_pixels" in golden.files.get(result, {}):
        digest = hashlib.sha256(expected.tobytes()).hexdigest()
        report.exact(f"{result}: sha256_pixels", digest, golden.files[result]["sha256_pixels"])
    ours = frame_object(cut_out(source, lambda image: image))
    report.exact(f"{file}: picture", ours, expected)


def _columns(data: bytes) -> tuple[bytes, dict[str, np.ndarray]]:
    """Header and columns of a PLY file of float32 properties."""
    header, _, body = data.partition(b"end_header\n")
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property")]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    return header, dict(zip(names, table.T, strict=True))


def _with_sign_of_ties(ours: dict[str, np.ndarray], golden: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our rotations with the golden sign where rounding decides which entry is the largest, and so the sign."""
    names = [f"rot_{i}" for i in range(4)]
    q, expected = (np.stack([columns[name] for name in names], axis=1) for columns in (ours, golden))
    magnitudes = np.sort(np.abs(expected), axis=1)
    tie = magnitudes[:, 3] - magnitudes[:, 2] < ROTATION_BOUND
    flip = tie & ((q * expected).sum(axis=1) < 0)
    return dict(zip(names, np.where(flip[:, None], -q, q).T, strict=True))


def ply_file(file: str, golden: Golden, report: Report) -> None:
    """The PLY file of the gaussian decoder's golden result: header, then each column."""
    sources = [name for name in golden.files if name.endswith(".npz") and "net_out" in golden.arrays(name)]
    if not sources:
        raise CheckpointError(f"{file} needs a file with net_out, which the manifest does not have")
    source = sources[0]
    g = golden.arrays(source)
    decoder, grid = golden.network(source, "SLatGaussianDecoder"), VoxelGrid(g["coords"])
    raw = decoder(g["feats"], grid)
    gaussians = to_gaussians(raw, grid, decoder.resolution, decoder.offset_perturbation, decoder.config)
    header, columns = _columns((golden.directory / file).read_bytes())
    our_header, our_columns = _columns(ply.to_bytes(to_splats(gaussians)))
    report.exact(f"{file}: header", our_header, header)
    if "rot_0" in columns and len(our_columns["rot_0"]) == len(columns["rot_0"]):
        our_columns |= _with_sign_of_ties(our_columns, columns)
    for name, expected in columns.items():
        bound = ROTATION_BOUND if name.startswith("rot_") else BOUND
        report.close(f"{file}: {name}", our_columns.get(name, []), expected, bound)
