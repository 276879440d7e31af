"""3D gaussian splatting in Triton: the pictures of torch_rasterizer, faster and without gradients.

All views of a call are projected, sorted and composited together as far as memory allows, and the host waits for the
device once for each such group, to learn how many pairs of a gaussian and a tile there are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from pipeline.compute import current_device
from pipeline.rendering import kernels
from pipeline.rendering.cameras import Camera
from pipeline.rendering.rules import JACOBIAN_MARGIN, LOG_MIN_ALPHA, camera_coordinate
from pipeline.splats.splats import Splats

# The side of a tile in pixels.
TILE = 8
# Gaussians between two looks whether a tile is opaque.
STEP, UNROLL = 32, 8
WARPS = 1
BLOCK = 128
# What is in memory at once, but for one view at least: gaussians, counted once for each view, at about 70 bytes, and
# pairs of a gaussian and a tile, at about 28 bytes. Together they are below 1 GiB.
GAUSSIANS_AT_ONCE, PAIRS_AT_ONCE = 6_500_000, 1 << 24


def composite_views(splats: Splats, cameras: Sequence[Camera]) -> Tensor:
    """Compute premultiplied colour and alpha of views of one size, at least one: [V, H, W, 4] float32.

    The same call gives the same bits.
    """
    device = splats.device
    with torch.no_grad(), current_device(device):
        out = splats.means.new_empty(len(cameras), cameras[0].height, cameras[0].width, 4)
        at_once = max(1, GAUSSIANS_AT_ONCE // max(1, len(splats)))
        for start in range(0, len(cameras), at_once):
            views = slice(start, start + at_once)
            _composite_group(splats, cameras[views], out[views])
    return out


@dataclass(frozen=True, eq=False)
class _Boxed:
    """The gaussians of V views, nearest first, with the tiles that each touches.

    table:  [V, N, TABLE_WIDTH]; rows of gaussians that are not drawn are undefined.
    first:  [V, N] int32, the first tile of the box.
    across: [V, N] int32, the number of tiles in a row of the box.
    tiles:  [V, N] int32, the number of tiles in the box.
    ends:   [V * N] int64, the sum of `tiles` up to and including each gaussian.
    """

    table: Tensor
    first: Tensor
    across: Tensor
    tiles: Tensor
    ends: Tensor


def _composite_group(splats: Splats, cameras: Sequence[Camera], out: Tensor) -> None:
    """Composite views into `out` [V, H, W, 4]."""
    boxed = _project(splats, cameras)
    # The one time that the host waits.
    pairs = boxed.tiles.sum(dim=1).tolist()
    first_pair = 0
    for views in _split(pairs, PAIRS_AT_ONCE):
        number = sum(pairs[views])
        _composite(boxed, views, first_pair, number, out)
        first_pair += number


def _split(sizes: Sequence[int], limit: int) -> Iterator[slice]:
    """Yield slices, in order, of at least one size each and of a sum within the limit where that is possible."""
    start, total = 0, 0
    for index, size in enumerate(sizes):
        if index > start and total + size > limit:
            yield slice(start, index)
            start, total = index, 0
        total += size
    yield slice(start, len(sizes))


def _project(splats: Splats, cameras: Sequence[Camera]) -> _Boxed:
    device, count = splats.device, len(splats)
    width, height = cameras[0].width, cameras[0].height
    log_opacity = F.logsigmoid(splats.opacity_logits)
    # One copy, for which the host does not wait.
    rows = torch.tensor([_camera_row(camera) for camera in cameras]).to(device, non_blocking=True)
    depths = camera_coordinate(splats.means, rows[:, :12].unflatten(1, (3, 4)), 2)
    near, far = rows[:, -2:].split(1, dim=1)
    visible = (depths >= near) & (depths <= far) & (log_opacity >= LOG_MIN_ALPHA)
    depths, order = depths.where(visible, math.inf).sort(dim=1, stable=True)
    del visible
    table = splats.means.new_empty(len(cameras), count, kernels.TABLE_WIDTH)
    first, across, tiles = torch.empty(3, len(cameras), count, dtype=torch.int32, device=device)
    if count:
        kernels.project_kernel[triton.cdiv(count, BLOCK), len(cameras)](
            splats.means.contiguous(), splats.quaternions.contiguous(), splats.log_scales.contiguous(),
            log_opacity, splats.f_dc.contiguous(),
            rows, order, depths,
            table, first, across, tiles,
            count, width, height, triton.cdiv(width, TILE),
            # Without fused multiply-adds, positions have the bits of the reference.
            TILE=TILE, BLOCK=BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return _Boxed(table, first, across, tiles, tiles.flatten().cumsum(0))


def _camera_row(camera: Camera) -> list[float]:
    """Return CAMERA_WIDTH numbers, see kernels."""
    (cx, cy), focal = camera.principal_point, camera.focal
    margin_x, margin_y = (JACOBIAN_MARGIN * size / (2 * focal) for size in (camera.width, camera.height))
    return [
        *camera.world_to_camera[:3].flatten().tolist(), focal, cx, cy,
        -cx / focal - margin_x, (camera.width - cx) / focal + margin_x,
        -cy / focal - margin_y, (camera.height - cy) / focal + margin_y,
        camera.near, camera.far,
    ]  # fmt: skip


def _composite(boxed: _Boxed, views: slice, first_pair: int, pairs: int, out: Tensor) -> None:
    """Composite some of the views, which have so many pairs behind `first_pair`, into theirs of `out` [V, H, W, 4]."""
    device = out.device
    _, height, width, _ = out.shape
    columns, lines = triton.cdiv(width, TILE), triton.cdiv(height, TILE)
    numbers = torch.arange((views.stop - views.start) * columns * lines + 1, dtype=torch.int32, device=device)
    # Half the bits are sorted in half the time.
    dtype = torch.int16 if len(numbers) <= torch.iinfo(torch.int16).max else torch.int32
    keys = torch.empty(pairs, dtype=dtype, device=device)
    owners = torch.empty(pairs, dtype=torch.int32, device=device)
    count = boxed.tiles.shape[1]
    rows = (views.stop - views.start) * count
    if pairs:
        kernels.pair_kernel[(triton.cdiv(rows, BLOCK),)](
            boxed.first, boxed.across, boxed.tiles, boxed.ends, keys, owners,
            count, views.start * count, rows, first_pair, columns, columns * lines,
            BLOCK=BLOCK,
        )  # fmt: skip
    # Stable, so that the nearest stays first in every tile.
    keys, order = keys.sort(stable=True)
    owners = owners[order]
    del order
    starts = torch.searchsorted(keys, numbers.to(dtype), out_int32=True)
    kernels.composite_kernel[(len(numbers) - 1,)](
        boxed.table, owners, starts, out[views],
        width, height, columns, columns * lines,
        TILE=TILE, STEP=STEP, UNROLL=UNROLL, num_warps=WARPS, enable_fp_fusion=True,
    )  # fmt: skip
