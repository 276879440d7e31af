"""The picture of a candidate that is kept when its splats are not: a few of the views that it was scored by."""

import io

import torch
from torch import Tensor

from pipeline.rendering.tiles import tile

# Of a validator's sixteen views: the front, and those at 96, 192 and 288 degrees.
VIEWS = (0, 4, 8, 12)
COLUMNS = 2
# The side of each view in pixels.
SIDE = 160
# An object takes some 20 kB, and no picture of this size more than 70 kB. WebP is half as large, and takes ten times
# as long.
QUALITY = 80


@torch.inference_mode()
def draw_candidate_sheet(views: Tensor) -> bytes:
    """Return four of a validator's views [16, S, S, 3] uint8, on any device, in two rows, as a JPEG.

    Each view is reduced to SIDE pixels where they are, so that little is copied from the device.
    """
    chosen = views[list(VIEWS)].permute(0, 3, 1, 2).float()
    # Each pixel is the mean of those that it takes the place of.
    small = torch.nn.functional.adaptive_avg_pool2d(chosen, SIDE).round().to(torch.uint8)
    buffer = io.BytesIO()
    tile(small.permute(0, 2, 3, 1), COLUMNS).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
