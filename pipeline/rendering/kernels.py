"""Triton kernels of the rasterizer for GPUs: projection, pairs of gaussians and tiles, compositing.

The formulas are those of pipeline.rendering.torch_rasterizer, in float32.
"""

import math

import triton
import triton.language as tl

from pipeline.rendering import rules

# A row of the table: centre (2), shear, u and v per pixel, binary logarithm of the opacity, rgb (3). As `_Projected` in
# torch_rasterizer, but u and v are scaled so that log2 alpha = log2 opacity - u^2 - v^2: the hardware computes exp2.
TABLE_WIDTH = 9
# Of a camera: the world-to-camera matrix without its last row (12), focal length, principal point (2), the limits of
# x / z (2) and y / z (2) for the derivatives of the projection, and the nearest and the farthest depth.
CAMERA_WIDTH = 21

_TABLE_WIDTH = tl.constexpr(TABLE_WIDTH)
_CAMERA_WIDTH = tl.constexpr(CAMERA_WIDTH)
_LOG2_E = tl.constexpr(math.log2(math.e))
_ROOT_OF_HALF_LOG2_E = tl.constexpr(math.sqrt(math.log2(math.e) / 2))
_SH_C0 = tl.constexpr(rules.SH_C0)
_LOW_PASS = tl.constexpr(rules.LOW_PASS)
_LOW_PASS_SQUARED = tl.constexpr(rules.LOW_PASS**2)
_LOG_MIN_ALPHA = tl.constexpr(rules.LOG_MIN_ALPHA)
_MIN_ALPHA = tl.constexpr(rules.MIN_ALPHA)
_MAX_ALPHA = tl.constexpr(rules.MAX_ALPHA)
_MIN_TRANSMITTANCE = tl.constexpr(rules.MIN_TRANSMITTANCE)
_REACH_FACTOR = tl.constexpr(rules.REACH_FACTOR)
_REACH_MARGIN = tl.constexpr(rules.REACH_MARGIN)


@triton.jit
def _tile_range(centre, reach, last_pixel, TILE: tl.constexpr):
    """Return the first tile and the number of tiles that the pixels within reach of a centre are in, on one axis."""
    wide = reach * _REACH_FACTOR + _REACH_MARGIN
    low = tl.maximum(tl.ceil(centre - wide - 0.5), 0.0)
    high = tl.minimum(tl.floor(centre + wide - 0.5), last_pixel)
    first = tl.minimum(low, last_pixel).to(tl.int32) // TILE
    last = tl.maximum(high, 0.0).to(tl.int32) // TILE
    return first, tl.where(low <= high, last - first + 1, 0)


@triton.jit
def _finite(x):
    return tl.abs(x) < float("inf")


# Otherwise Triton compiles separately for numbers of gaussians that are divisible by 16.
@triton.jit(do_not_specialize=["count"])
def project_kernel(
    means_ptr, quaternions_ptr, log_scales_ptr, log_opacities_ptr, f_dc_ptr,
    cameras_ptr, order_ptr, depths_ptr,
    table_ptr, first_ptr, across_ptr, tiles_ptr,
    count, width, height, columns,
    TILE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Project gaussians in the order of their depths [V, N], infinite where invisible, and box them in tiles.

    Writes the table [V, N, TABLE_WIDTH], and for each gaussian the first tile of its box, the number of tiles in a row
    of the box, and in all of it: 3 x [V, N] int32; 0 in all of it where the gaussian is invisible or not finite.
    """
    view = tl.program_id(1)
    rank = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = rank < count
    row = view.to(tl.int64) * count + rank
    z = tl.load(depths_ptr + row, inside, float("inf"))
    visible = z < float("inf")
    gaussian = tl.load(order_ptr + row, visible, 0)

    camera = cameras_ptr + view * _CAMERA_WIDTH
    r_xx, r_xy, r_xz, t_x = tl.load(camera), tl.load(camera + 1), tl.load(camera + 2), tl.load(camera + 3)
    r_yx, r_yy, r_yz, t_y = tl.load(camera + 4), tl.load(camera + 5), tl.load(camera + 6), tl.load(camera + 7)
    r_zx, r_zy, r_zz = tl.load(camera + 8), tl.load(camera + 9), tl.load(camera + 10)
    focal, centre_x, centre_y = tl.load(camera + 12), tl.load(camera + 13), tl.load(camera + 14)
    mean_x = tl.load(means_ptr + gaussian * 3, visible, 0.0)
    mean_y = tl.load(means_ptr + gaussian * 3 + 1, visible, 0.0)
    mean_z = tl.load(means_ptr + gaussian * 3 + 2, visible, 0.0)
    x = mean_x * r_xx + mean_y * r_xy + mean_z * r_xz + t_x
    y = mean_x * r_yx + mean_y * r_yy + mean_z * r_yz + t_y
    column, line = tl.div_rn(focal * x, z) + centre_x, tl.div_rn(focal * y, z) + centre_y
    slope_x = tl.minimum(tl.maximum(x / z, tl.load(camera + 15)), tl.load(camera + 16))
    slope_y = tl.minimum(tl.maximum(y / z, tl.load(camera + 17)), tl.load(camera + 18))

    # The rows of J R, in which a is across and d is down the picture.
    per_depth = focal / z
    a_x, d_x = (r_xx - slope_x * r_zx) * per_depth, (r_yx - slope_y * r_zx) * per_depth
    a_y, d_y = (r_xy - slope_x * r_zy) * per_depth, (r_yy - slope_y * r_zy) * per_depth
    a_z, d_z = (r_xz - slope_x * r_zz) * per_depth, (r_yz - slope_y * r_zz) * per_depth
    w = tl.load(quaternions_ptr + gaussian * 4, visible, 1.0)
    i = tl.load(quaternions_ptr + gaussian * 4 + 1, visible, 0.0)
    j = tl.load(quaternions_ptr + gaussian * 4 + 2, visible, 0.0)
    k = tl.load(quaternions_ptr + gaussian * 4 + 3, visible, 0.0)
    norm = tl.maximum(tl.sqrt(w * w + i * i + j * j + k * k), 1e-12)
    w, i, j, k = w / norm, i / norm, j / norm, k / norm
    scale_x = tl.exp(tl.load(log_scales_ptr + gaussian * 3, visible, 0.0))
    scale_y = tl.exp(tl.load(log_scales_ptr + gaussian * 3 + 1, visible, 0.0))
    scale_z = tl.exp(tl.load(log_scales_ptr + gaussian * 3 + 2, visible, 0.0))
    g_xx, g_yx, g_zx = 1 - 2 * (j * j + k * k), 2 * (i * j + w * k), 2 * (i * k - w * j)
    g_xy, g_yy, g_zy = 2 * (i * j - w * k), 1 - 2 * (i * i + k * k), 2 * (j * k + w * i)
    g_xz, g_yz, g_zz = 2 * (i * k + w * j), 2 * (j * k - w * i), 1 - 2 * (i * i + j * j)
    # Times the gaussian's axes: the rows of J R S, whose Gram matrix is the covariance in the picture.
    across_x = (a_x * g_xx + a_y * g_yx + a_z * g_zx) * scale_x
    across_y = (a_x * g_xy + a_y * g_yy + a_z * g_zy) * scale_y
    across_z = (a_x * g_xz + a_y * g_yz + a_z * g_zz) * scale_z
    down_x = (d_x * g_xx + d_y * g_yx + d_z * g_zx) * scale_x
    down_y = (d_x * g_xy + d_y * g_yy + d_z * g_zy) * scale_y
    down_z = (d_x * g_xz + d_y * g_yz + d_z * g_zz) * scale_z
    sharp_xx = across_x * across_x + across_y * across_y + across_z * across_z
    sharp_yy = down_x * down_x + down_y * down_y + down_z * down_z
    xy = across_x * down_x + across_y * down_y + across_z * down_z
    xx, yy = sharp_xx + _LOW_PASS, sharp_yy + _LOW_PASS
    # Equal to xx * yy - xy^2 by Lagrange's identity, but without its cancellation, which matters for needles.
    cross_x = across_y * down_z - across_z * down_y
    cross_y = across_z * down_x - across_x * down_z
    cross_z = across_x * down_y - across_y * down_x
    squared = cross_x * cross_x + cross_y * cross_y + cross_z * cross_z
    determinant = squared + _LOW_PASS * (sharp_xx + sharp_yy) + _LOW_PASS_SQUARED
    shear, u_per_pixel, v_per_pixel = xy / yy, tl.sqrt(yy / determinant), 1 / tl.sqrt(yy)
    log_opacity = tl.load(log_opacities_ptr + gaussian, visible, 0.0)
    red = 0.5 + _SH_C0 * tl.load(f_dc_ptr + gaussian * 3, visible, 0.0)
    green = 0.5 + _SH_C0 * tl.load(f_dc_ptr + gaussian * 3 + 1, visible, 0.0)
    blue = 0.5 + _SH_C0 * tl.load(f_dc_ptr + gaussian * 3 + 2, visible, 0.0)
    drawn = visible & _finite(column) & _finite(line) & _finite(shear) & _finite(u_per_pixel) & _finite(v_per_pixel)
    drawn = drawn & _finite(red) & _finite(green) & _finite(blue)

    entry = table_ptr + row * _TABLE_WIDTH
    tl.store(entry, column, drawn)
    tl.store(entry + 1, line, drawn)
    tl.store(entry + 2, shear, drawn)
    tl.store(entry + 3, u_per_pixel * _ROOT_OF_HALF_LOG2_E, drawn)
    tl.store(entry + 4, v_per_pixel * _ROOT_OF_HALF_LOG2_E, drawn)
    tl.store(entry + 5, log_opacity * _LOG2_E, drawn)
    tl.store(entry + 6, tl.maximum(red, 0.0), drawn)
    tl.store(entry + 7, tl.maximum(green, 0.0), drawn)
    tl.store(entry + 8, tl.maximum(blue, 0.0), drawn)

    # Alpha is below 1/255 beyond this many standard deviations.
    extent = tl.sqrt(tl.maximum(2 * (log_opacity - _LOG_MIN_ALPHA), 0.0))
    column = tl.where(drawn, column, 0.0)
    line = tl.where(drawn, line, 0.0)
    first_x, number_x = _tile_range(column, tl.where(drawn, extent * tl.sqrt(xx), 0.0), width - 1.0, TILE)
    first_y, number_y = _tile_range(line, tl.where(drawn, extent * tl.sqrt(yy), 0.0), height - 1.0, TILE)
    tl.store(first_ptr + row, first_y * columns + first_x, inside)
    tl.store(across_ptr + row, number_x, inside)
    tl.store(tiles_ptr + row, tl.where(drawn, number_x * number_y, 0), inside)


@triton.jit(do_not_specialize=["count", "first_row", "rows", "first_pair"])
def pair_kernel(
    first_ptr, across_ptr, tiles_ptr, ends_ptr,
    keys_ptr, owners_ptr,
    count, first_row, rows, first_pair, columns, tiles_in_view,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """List the pairs of a gaussian and a tile of its box, for rows of the table from `first_row` on.

    Writes the tile, counted through the views from that of `first_row` on, and the row. A row's pairs end where
    `ends_ptr` says, less `first_pair`.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < rows
    row = first_row + place
    tiles = tl.load(tiles_ptr + row, inside, 0)
    across = tl.maximum(tl.load(across_ptr + row, inside, 1), 1)
    key = (place // count).to(tl.int32) * tiles_in_view + tl.load(first_ptr + row, inside, 0)
    start = tl.load(ends_ptr + row, inside, 0) - tiles - first_pair
    most = tl.max(tiles)
    step = 0
    while step < most:
        tile = key + step // across * columns + step % across
        tl.store(keys_ptr + start + step, tile.to(keys_ptr.dtype.element_ty), step < tiles)
        tl.store(owners_ptr + start + step, row.to(tl.int32), step < tiles)
        step += 1


@triton.jit
def composite_kernel(
    table_ptr, owners_ptr, starts_ptr, out_ptr,
    width, height, columns, tiles_in_view,
    TILE: tl.constexpr, STEP: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Composite one tile front to back: rgb times alpha, and alpha, into [V, H, W, 4]."""
    number = tl.program_id(0)
    view, tile = number // tiles_in_view, number % tiles_in_view
    column = tile % columns * TILE + tl.arange(0, TILE)[None, :]
    line = tile // columns * TILE + tl.arange(0, TILE)[:, None]
    x, y = column + 0.5, line + 0.5
    at, end = tl.load(starts_ptr + number), tl.load(starts_ptr + number + 1)
    # 0 from where the gaussians behind are left out.
    transmittance = tl.where((column < width) & (line < height), 1.0, 0.0)
    red = tl.zeros([TILE, TILE], tl.float32)
    green = tl.zeros([TILE, TILE], tl.float32)
    blue = tl.zeros([TILE, TILE], tl.float32)
    coverage = tl.zeros([TILE, TILE], tl.float32)
    while at < end:
        for _ in range(STEP // UNROLL):
            for ahead in tl.static_range(UNROLL):
                gaussian = tl.load(owners_ptr + tl.minimum(at + ahead, end - 1))
                entry = table_ptr + gaussian.to(tl.int64) * _TABLE_WIDTH
                down = y - tl.load(entry + 1)
                u = tl.load(entry + 3) * (x - tl.load(entry) - tl.load(entry + 2) * down)
                v = tl.load(entry + 4) * down
                alpha = tl.minimum(tl.exp2(tl.load(entry + 5) - u * u - v * v), _MAX_ALPHA)
                alpha = tl.where((alpha > _MIN_ALPHA) & (at + ahead < end), alpha, 0.0)
                left = tl.fma(-alpha, transmittance, transmittance)
                drawn = left > _MIN_TRANSMITTANCE
                weight = tl.where(drawn, alpha * transmittance, 0.0)
                transmittance = tl.where(drawn, left, 0.0)
                red += weight * tl.load(entry + 6)
                green += weight * tl.load(entry + 7)
                blue += weight * tl.load(entry + 8)
                coverage += weight
            at += UNROLL
        # Behind an opaque tile nothing is to be seen.
        at = tl.where(tl.max(transmittance) > 0, at, end)
    pixel = out_ptr + ((view.to(tl.int64) * height + line) * width + column) * 4
    inside = (column < width) & (line < height)
    tl.store(pixel, red, inside)
    tl.store(pixel + 1, green, inside)
    tl.store(pixel + 2, blue, inside)
    tl.store(pixel + 3, coverage, inside)
