"""Preparation of a prompt's image for the image encoder: cut out, cropped to a square, on black.

Steps and rounding: microsoft/TRELLIS, `TrellisImageTo3DPipeline.preprocess_image`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from pipeline.conditioning.foreground import decontaminate, keep_pieces
from pipeline.conditioning.image_file import OPAQUE_ALPHA
from pipeline.conditioning.mattings import CutOut
from pipeline.conditioning.prompt import ImagePrompt
from pipeline.errors import EmptyForeground
from pipeline.params import CutOutParams

PICTURE_SIZE = 518
# Longest side of an image given to background removal.
_MAX_MATTING_SIDE = 1024
# An alpha channel marks the background if this share of the pixels is below this alpha. Less is a rounded corner, a
# border, or what a program wrote into a channel that nobody drew.
_CUT_OUT_SHARE = 0.05
_CUT_OUT_ALPHA = 128
# The share of the visible pixels that is opaque after a faint object has been scaled up.
_OPAQUE_SHARE = 0.05


def is_cut_out(image: Image.Image) -> bool:
    """Return whether the image has an alpha channel that cuts an object out of its background."""
    if image.mode != "RGBA":
        return False
    alpha = np.asarray(image.getchannel("A"))
    return int(np.count_nonzero(alpha < _CUT_OUT_ALPHA)) >= _CUT_OUT_SHARE * alpha.size


def has_alpha(image: Image.Image) -> bool:
    """Return whether the image has an alpha channel that is not opaque everywhere: upstream's rule for a cut-out."""
    return image.mode == "RGBA" and int(np.asarray(image.getchannel("A")).min()) < 255


@dataclass(frozen=True, eq=False)
class PreparedPicture:
    """A picture for the image encoder, RGB of PICTURE_SIZE on black, and the cut-out that was framed."""

    picture: Image.Image
    cut_out: CutOut


RemoveBackground = Callable[[Image.Image, CutOutParams], CutOut]
"""Cuts the object out of an RGB picture; see MattingModels."""


def prepare_picture(
    prompt: ImagePrompt,
    remove_background: RemoveBackground,
    is_background_gone: Callable[[Image.Image], bool] = is_cut_out,
) -> PreparedPicture:
    """Cut out and frame the object of a prompt as its params say. Raises EmptyForeground or FullForeground."""
    params = prompt.params
    cut = cut_out(prompt.image, remove_background, params, is_background_gone)
    image = keep_pieces(cut.image, params.pieces)
    if params.faint == "scale":
        image = scale_faint_alpha(image)
    try:
        framed = frame_object(image, params.margin, params.min_side)
    except EmptyForeground as error:
        raise EmptyForeground(str(error), cut.mattings) from None
    return PreparedPicture(framed, replace(cut, image=image))


def cut_out(
    image: Image.Image,
    remove_background: RemoveBackground,
    params: CutOutParams,
    is_background_gone: Callable[[Image.Image], bool] = is_cut_out,
) -> CutOut:
    """Return the image as RGBA with a transparent background, as it is if its background is gone already.

    Large images are shrunk before the background is removed, and small ones enlarged if params say so.
    """
    if is_background_gone(image):
        return CutOut(image)
    resized = _resize_for_matting(image.convert("RGB"), params.enlarge)
    cut = remove_background(resized, params)
    if params.clean_edges and cut.model:
        return replace(cut, image=decontaminate(resized, cut.image.getchannel("A")))
    return cut


def _resize_for_matting(image: Image.Image, enlarge: int | None) -> Image.Image:
    longest = max(image.size)
    if longest > _MAX_MATTING_SIDE:
        scale = _MAX_MATTING_SIDE / longest
    elif enlarge is not None and longest < enlarge:
        scale = enlarge / longest
    else:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def scale_faint_alpha(cutout: Image.Image) -> Image.Image:
    """Scale the alpha of an RGBA image up if hardly a pixel is opaque enough to be framed; else return it as it is.

    The strongest twentieth of the visible pixels becomes opaque, so that a few stray pixels do not hide a faint object.
    """
    alpha = np.asarray(cutout.getchannel("A"))
    visible = alpha[alpha > 0]
    if not len(visible) or np.count_nonzero(visible > OPAQUE_ALPHA) >= _OPAQUE_SHARE * len(visible):
        return cutout
    strongest = float(np.quantile(visible, 1 - _OPAQUE_SHARE))
    scaled = np.rint(np.minimum(alpha * (255 / strongest), 255)).astype(np.uint8)
    result = cutout.copy()
    result.putalpha(Image.fromarray(scaled))
    return result


def frame_object(
    cutout: Image.Image, margin: float = CutOutParams.margin, min_side: int = CutOutParams.min_side
) -> Image.Image:
    """Turn an RGBA image into an RGB image of 518 x 518 pixels with the object centred on black.

    The square around the object is `margin` times its longest side. Raises EmptyForeground if no object is visible,
    with how opaque it is and how opaque it has to be, or if its longest side has fewer than `min_side` pixels.
    """
    alpha = np.asarray(cutout.getchannel("A"))
    rows, columns = np.nonzero(alpha > OPAQUE_ALPHA)
    if len(rows) == 0:
        raise EmptyForeground(f"the image shows no object: nothing in it is opaque{_explain_faint(int(alpha.max()))}")
    left, right, top, bottom = (int(v) for v in (columns.min(), columns.max(), rows.min(), rows.max()))
    longest = max(right - left, bottom - top)
    half = int(longest * margin) // 2
    if half == 0:
        raise EmptyForeground("the image shows no object: its opaque part is only a few pixels large")
    if longest + 1 < min_side:
        raise EmptyForeground(
            f"the image's object is too small: its longest side has {longest + 1} pixels, and framing.min_side in the "
            f"phase asks for {min_side}"
        )
    x, y = (left + right) / 2, (top + bottom) / 2
    # Pillow rounds the box half to even and fills what lies outside with transparent black.
    square = cutout.crop((x - half, y - half, x + half, y + half))
    resized = square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)
    rgba = np.asarray(resized).astype(np.float32) / 255
    return Image.fromarray((rgba[:, :, :3] * rgba[:, :, 3:4] * 255).astype(np.uint8))


def _explain_faint(alpha: int) -> str:
    if alpha == 0:
        return ", all of it is transparent"
    return (
        f" enough: its most opaque pixel has an alpha of {alpha} ({100 * alpha / 255:.0f} %), and more than "
        f"{OPAQUE_ALPHA} ({100 * OPAQUE_ALPHA / 255:.0f} %) is needed; make it more opaque, or set "
        "background.faint: scale in the phase"
    )
