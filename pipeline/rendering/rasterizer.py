"""Pictures of splats, drawn by the rasterizer that is the fastest for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.compute import triton_obstacle
from pipeline.rendering import torch_rasterizer
from pipeline.rendering.cameras import Camera
from pipeline.splats.splats import Splats


@dataclass(frozen=True, eq=False)
class Rendering:
    """V pictures, differentiable with respect to the splats.

    rgb:   [V, H, W, 3] float32, blended with the background; at least 0, and above 1 where a colour is.
    alpha: [V, H, W] float32 in 0..1, the coverage.
    """

    rgb: Tensor
    alpha: Tensor


def render(
    splats: Splats, cameras: Sequence[Camera], *, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """Draw the splats as every camera sees them, clipped to 0..1: [V, H, W, 3] float32 on the splats' device.

    This is `rasterize` without the alpha channel, with the same errors.
    """
    return rasterize(splats, cameras, background=background).rgb.clamp(0.0, 1.0)


def rasterize(
    splats: Splats, cameras: Sequence[Camera], *, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> Rendering:
    """Draw the splats as every camera sees them, by the rules of gsplat's `rasterization`, with an alpha channel.

    Colours come from `f_dc` alone. Runs on the splats' device, in float32 regardless of autocast. The same call gives
    the same bits. Triton's kernels draw on a GPU where no gradients are needed, torch everywhere else.

    Raises ValueError if there are no cameras, or if they differ in picture size.
    """
    if not cameras:
        raise ValueError("no cameras: give at least one")
    size = cameras[0].width, cameras[0].height
    if any((camera.width, camera.height) != size for camera in cameras):
        raise ValueError("cameras differ in picture size: render each size on its own")
    needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in splats.tensors().values())
    if needs_gradients or triton_obstacle(splats.device) is not None:
        pictures = torch_rasterizer.composite_views(splats, cameras)
    else:
        # Triton is not installed everywhere.
        from pipeline.rendering import triton_rasterizer

        pictures = triton_rasterizer.composite_views(splats, cameras)
    alpha = pictures[..., 3:]
    # On a GPU, the host does not wait until the pictures are drawn.
    colour = torch.tensor(background, dtype=torch.float32).to(pictures.device, non_blocking=True)
    return Rendering(pictures[..., :3] + (1 - alpha) * colour, alpha[..., 0])
