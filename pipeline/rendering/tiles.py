"""Pictures of one size in rows."""

import torch
from PIL import Image
from torch import Tensor


def tile(pictures: Tensor, columns: int) -> Image.Image:
    """Return pictures [V, H, W, 3] uint8, on any device, side by side in rows of `columns`; places left over are white.

    Raises ValueError if there is no picture.
    """
    count, height, width, _ = pictures.shape
    if not count:
        raise ValueError("there is no picture to tile")
    rows = -(-count // columns)
    if missing := rows * columns - count:
        pictures = torch.cat([pictures, pictures.new_full((missing, height, width, 3), 255)])
    grid = pictures.reshape(rows, columns, height, width, 3).transpose(1, 2).reshape(rows * height, columns * width, 3)
    return Image.fromarray(grid.cpu().numpy())
