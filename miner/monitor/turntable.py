"""The picture of a result on the page: views from around it, side by side."""

import io

import torch
from PIL import Image

from pipeline import Splats, normalise, orbit, render, tile

VIEWS = 8
SIZE = 176
# The longest side of the bounding box is scaled to this, as validators do before they render.
EXTENT = 1.5
WEBP_QUALITY = 82


def draw_turntable(splats: Splats) -> Image.Image:
    """Draw VIEWS views from around the splats side by side, on white: RGB, SIZE pixels high; on the splats' device."""
    cameras = orbit([360 / VIEWS * view for view in range(VIEWS)], size=SIZE)
    with torch.inference_mode():
        views = (render(normalise(splats, EXTENT), cameras) * 255).round().to(torch.uint8)
    return tile(views, columns=VIEWS)


def encode_webp(picture: Image.Image) -> bytes:
    """Encode a picture as the page shows it."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY)
    return buffer.getvalue()
