"""3D gaussian splatting in plain torch: the reference that every faster renderer has to agree with.

Formulas: Kerbl et al., "3D Gaussian Splatting for Real-Time Radiance Field Rendering" (2023), with the constants of
gsplat 1.5 (the defaults of `gsplat.rasterization`), which validators render with. A gaussian contributes to a pixel
exactly where its alpha is above 1/255. All these pixels are inside gsplat's opacity-aware bounding box, so the
picture does not depend on how pixels are grouped into tiles.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline.rendering.cameras import Camera
from pipeline.rendering.rules import (
    JACOBIAN_MARGIN,
    LOG_MIN_ALPHA,
    LOW_PASS,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_TRANSMITTANCE,
    REACH_FACTOR,
    REACH_MARGIN,
    SH_C0,
    camera_coordinate,
)
from pipeline.splats.splats import Splats

TILE_SIZES = (4, 8, 16)
# The cost of handling one (gaussian, tile) pair, in evaluations of a gaussian at a pixel.
PAIR_COST = 40
# Gaussians composited at once per tile: between two such steps, tiles that are opaque or empty drop out. On a GPU fewer
# steps are worth more than fewer evaluations.
CPU_STEP, GPU_STEP = 32, 128
# Evaluations in a block of tiles: on a CPU as many as fit its cache, on a GPU enough to keep it busy. Those of one step
# are in memory at once, and for gradients all of them.
CPU_BLOCK, GPU_BLOCK, GPU_GRADIENT_BLOCK = 1 << 21, 1 << 29, 1 << 26


def composite_views(
    splats: Splats, cameras: Sequence[Camera], *, tile_size: int | None = None, block_size: int | None = None
) -> Tensor:
    """Compute premultiplied colour and alpha of views of one size, at least one: [V, H, W, 4] float32.

    Differentiable with respect to the splats. The same call gives the same bits. Where torch may use TF32 for matrix
    products, the result is only that precise. `tile_size` (pixels; by default the cheapest for these splats) and
    `block_size` (evaluations of a gaussian at a pixel in a block of tiles) change speed and memory, not the picture.
    """
    width, height = cameras[0].width, cameras[0].height
    views = []
    with torch.autocast(splats.device.type, enabled=False):
        for camera in cameras:
            gaussians = _project(splats, camera)
            side = tile_size or _cheapest_tile_size(gaussians, width, height)
            block = block_size or _block_size(gaussians.table)
            views.append(_composite(gaussians, width, height, side, block // side**2))
    return torch.stack(views)


def _block_size(table: Tensor) -> int:
    if table.device.type == "cpu":
        return CPU_BLOCK
    return GPU_GRADIENT_BLOCK if table.requires_grad else GPU_BLOCK


@dataclass(frozen=True, eq=False)
class _Projected:
    """M gaussians in front of one camera, nearest first.

    With x, y counted in pixels from `centre`, log alpha = log_opacity - (u^2 + v^2) / 2 where
    u = u_per_pixel * (x - shear * y) and v = v_per_pixel * y.

    table:  [M + 1, 10] centre (2), shear, u_per_pixel, v_per_pixel, log_opacity, rgb (3), 1; the last row is
            invisible.
    centre: [M, 2] pixels, without gradient.
    reach:  [M, 2] half the size of the box around all pixels with alpha >= 1/255, without gradient.
    """

    table: Tensor
    centre: Tensor
    reach: Tensor


def _project(splats: Splats, camera: Camera) -> _Projected:
    """Project the visible gaussians (EWA, Zwicker et al. 2001) and sort them by depth."""
    world_to_camera = camera.world_to_camera.to(splats.means)
    rotation = world_to_camera[:3, :3]
    log_opacity = F.logsigmoid(splats.opacity_logits)
    position = [camera_coordinate(splats.means, world_to_camera, axis) for axis in range(3)]
    with torch.no_grad():
        depth = position[2]
        visible = (depth >= camera.near) & (depth <= camera.far) & (log_opacity >= LOG_MIN_ALPHA)
        chosen = visible.nonzero()[:, 0]
        chosen = chosen[depth[chosen].argsort(stable=True)]

    x, y, z = (coordinates[chosen] for coordinates in position)
    (cx, cy), focal = camera.principal_point, camera.focal
    margin_x = JACOBIAN_MARGIN * camera.width / (2 * focal)
    margin_y = JACOBIAN_MARGIN * camera.height / (2 * focal)
    slope_x = (x / z).clamp(-cx / focal - margin_x, (camera.width - cx) / focal + margin_x)
    slope_y = (y / z).clamp(-cy / focal - margin_y, (camera.height - cy) / focal + margin_y)
    axes = rotation @ _axes(splats.quaternions[chosen], splats.log_scales[chosen])
    # The rows of J R S, whose Gram matrix is the covariance in the picture.
    across = (axes[:, 0] - slope_x[:, None] * axes[:, 2]) * (focal / z)[:, None]
    down = (axes[:, 1] - slope_y[:, None] * axes[:, 2]) * (focal / z)[:, None]
    sharp_xx, sharp_yy, xy = (across * across).sum(-1), (down * down).sum(-1), (across * down).sum(-1)
    xx, yy = sharp_xx + LOW_PASS, sharp_yy + LOW_PASS
    # Equal to xx * yy - xy^2 by Lagrange's identity, but without its cancellation, which matters for needles.
    cross = torch.linalg.cross(across, down)
    determinant = (cross * cross).sum(-1) + LOW_PASS * (sharp_xx + sharp_yy) + LOW_PASS**2
    column, row, u_per_pixel = focal * x / z + cx, focal * y / z + cy, (yy / determinant).sqrt()
    red, green, blue = (0.5 + SH_C0 * splats.f_dc[chosen]).clamp(min=0.0).unbind(-1)
    shape = [column, row, xy / yy, u_per_pixel, yy.rsqrt(), log_opacity[chosen]]
    table = torch.stack([*shape, red, green, blue, torch.ones_like(z)], dim=-1)
    invisible = table.new_zeros(1, table.shape[1])
    invisible[0, 5] = -1e4
    with torch.no_grad():
        # Alpha is below 1/255 beyond this many standard deviations.
        extent = (2 * (log_opacity[chosen] - LOG_MIN_ALPHA)).clamp(min=0.0).sqrt()
        # A gaussian that is not finite is in no tile, so its row is never read.
        finite = table.isfinite().all(-1, keepdim=True)
        reach = torch.where(finite, extent[:, None] * torch.stack([xx, yy], dim=-1).sqrt(), -1.0)
        centre = torch.where(finite, table[:, :2], 0.0)
    return _Projected(torch.cat([table, invisible]), centre, reach)


def _axes(quaternions: Tensor, log_scales: Tensor) -> Tensor:
    """Return principal axes as columns of the length of their standard deviation: [M, 4], [M, 3] -> [M, 3, 3]."""
    w, x, y, z = F.normalize(quaternions, dim=-1).unbind(-1)
    rotation = torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        dim=-1,
    ).view(-1, 3, 3)  # fmt: skip
    return rotation * log_scales.exp()[:, None, :]


def _tile_range(gaussians: _Projected, width: int, height: int, tile_size: int) -> tuple[Tensor, Tensor]:
    """Return the first tile and the number of tiles (x, y) that each gaussian's box overlaps: 2 x [M, 2] int64."""
    last_pixel = torch.tensor([width - 1, height - 1], dtype=torch.float32, device=gaussians.centre.device)
    reach = gaussians.reach * REACH_FACTOR + REACH_MARGIN
    low = (gaussians.centre - reach - 0.5).ceil().clamp(min=0.0)
    high = (gaussians.centre + reach - 0.5).floor().minimum(last_pixel)
    hit = ((low <= high) & (gaussians.reach >= 0)).all(-1, keepdim=True)
    first, last = (low.minimum(last_pixel) / tile_size).long(), (high.clamp(min=0.0) / tile_size).long()
    return first, torch.where(hit, last - first + 1, 0)


def _cheapest_tile_size(gaussians: _Projected, width: int, height: int) -> int:
    with torch.no_grad():
        costs = {
            size: int(_tile_range(gaussians, width, height, size)[1].prod(-1).sum()) * (size**2 + PAIR_COST)
            for size in TILE_SIZES
        }
    return min(costs, key=lambda size: costs[size])


@torch.no_grad()
def _blocks(
    gaussians: _Projected, width: int, height: int, tile_size: int, block_pairs: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield blocks of tiles with the gaussians that each has to draw, tiles of similar counts together.

    A block is the tiles' numbers [B], how many gaussians each draws [B], and these as rows of the table [B, G],
    nearest first, padded with the invisible row.
    """
    device = gaussians.centre.device
    columns = -(-width // tile_size)
    first, number = _tile_range(gaussians, width, height, tile_size)
    # All pairs of a gaussian (`owner`) and a tile of its box, the nearest gaussians first.
    boxes = number.prod(-1)
    owner = torch.arange(len(boxes), device=device).repeat_interleave(boxes)
    place = torch.arange(len(owner), device=device) - (boxes.cumsum(0) - boxes)[owner]
    column = first[owner, 0] + place % number[owner, 0]
    row = first[owner, 1] + place // number[owner, 0]
    tile, order = (row * columns + column).int().sort(stable=True)
    owner = owner[order]
    tiles, counts = torch.unique_consecutive(tile, return_counts=True)
    starts = counts.cumsum(0) - counts
    counts, order = counts.sort(descending=True, stable=True)
    tiles, starts = tiles[order].long(), starts[order]
    at = 0
    while at < len(tiles):
        longest = int(counts[at])
        block = slice(at, at + max(1, block_pairs // longest))
        slots = torch.arange(longest, device=device)
        members = owner[(starts[block, None] + slots).clamp(max=len(owner) - 1)]
        members = torch.where(slots < counts[block, None], members, len(boxes))
        yield tiles[block], counts[block], members
        at = block.stop


def _composite(gaussians: _Projected, width: int, height: int, tile_size: int, block_pairs: int) -> Tensor:
    """Compute premultiplied colour and alpha of one view: [H, W, 4]."""
    columns, rows = -(-width // tile_size), -(-height // tile_size)
    table = gaussians.table
    numbers, colours = [], []
    for tiles, counts, members in _blocks(gaussians, width, height, tile_size, block_pairs):
        middle = (torch.stack([tiles % columns, tiles // columns], dim=-1) + 0.5) * tile_size
        arguments = (table, counts, members, middle, tile_size)
        if table.requires_grad:
            # The tensors that the backward pass needs are many times larger than the result, so they are recomputed.
            colours.append(checkpoint(_composite_block, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            colours.append(_composite_block(*arguments))
        numbers.append(tiles)
    canvas = table.new_zeros(rows * columns, tile_size**2, 4)
    if numbers:
        canvas = canvas.index_copy(0, torch.cat(numbers), torch.cat(colours))
    picture = canvas.view(rows, columns, tile_size, tile_size, 4).transpose(1, 2)
    return picture.reshape(rows * tile_size, columns * tile_size, 4)[:height, :width]


def _composite_block(table: Tensor, counts: Tensor, members: Tensor, middle: Tensor, tile_size: int) -> Tensor:
    """Composite B tiles around `middle` [B, 2] front to back: rgb times alpha, and alpha, as [B, pixels, 4]."""
    monomials = _monomials(tile_size, table)
    at_once = CPU_STEP if table.device.type == "cpu" else GPU_STEP
    gathered = table.index_select(0, members.flatten()).view(*members.shape, -1)
    pieces = zip(
        torch.split(_coefficients(gathered[..., :6], middle), at_once, dim=1),
        torch.split(gathered[..., 6:], at_once, dim=1),
        strict=True,
    )
    result = table.new_zeros(len(members), tile_size**2, 4)
    transmittance = table.new_ones(len(members), tile_size**2, 1)
    active = torch.arange(len(members), device=table.device)
    for step, (piece, colour) in enumerate(pieces):
        alive = (transmittance > MIN_TRANSMITTANCE).any(1)[:, 0] & (counts[active] > step * at_once)
        kept = alive.nonzero()[:, 0]
        if len(kept) < len(active):
            active, transmittance = active[kept], transmittance[kept]
        if not len(active):
            break
        if len(active) < len(piece):
            piece, colour = piece[active], colour[active]
        alpha = (monomials @ piece.transpose(1, 2)).exp().clamp(max=MAX_ALPHA)
        alpha = F.threshold(alpha, MIN_ALPHA, 0.0)
        transmittances = torch.cat([transmittance, 1 - alpha], dim=-1).cumprod(-1)
        # The gaussian that would lower the transmittance to 1e-4 or below is left out, and so are all behind it.
        weight = torch.where(transmittances[..., 1:] > MIN_TRANSMITTANCE, alpha * transmittances[..., :-1], 0.0)
        result = result.index_add(0, active, weight @ colour)
        transmittance = transmittances[..., -1:]
    return result


def _monomials(tile_size: int, like: Tensor) -> Tensor:
    """Return 1, x, y, x^2, xy, y^2 of every pixel centre of a tile, relative to its middle: [pixels, 6]."""
    offset = torch.arange(tile_size, dtype=like.dtype, device=like.device) + 0.5 - tile_size / 2
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1).view(-1, 6)


def _coefficients(gaussians: Tensor, middle: Tensor) -> Tensor:
    """Expand log alpha around the middles of tiles in `_monomials`: [B, G, 6], [B, 2] -> [B, G, 6].

    The coefficients are built from u and v at the middle, which are small where the gaussian is visible, so that no
    large terms cancel.
    """
    centre_x, centre_y, shear, u_per_pixel, v_per_pixel, log_opacity = gaussians.unbind(-1)
    x, y = middle[:, :1] - centre_x, middle[:, 1:] - centre_y
    u, v = u_per_pixel * (x - shear * y), v_per_pixel * y
    u_x, u_y, v_y = u_per_pixel, -u_per_pixel * shear, v_per_pixel
    lower = [log_opacity - 0.5 * (u * u + v * v), -u_x * u, -u_y * u - v_y * v]
    return torch.stack([*lower, -0.5 * u_x * u_x, -u_x * u_y, -0.5 * (u_y * u_y + v_y * v_y)], dim=-1)
