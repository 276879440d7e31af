"""Pictures whose masks are known: procedural objects, with shadows, before plain, textured and photographed grounds.

Photographs are those inside scikit-image's package. Kinds of textures and photographs are divided in two, so that what
is fitted on the grounds of one half is tested on grounds of other kinds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from scripts.train_tiny.data.dataset import FIRST_HELD_OUT_SEED
from scripts.train_tiny.data.distance_fields import ObjectBatch
from scripts.train_tiny.data.objects import make_object
from scripts.train_tiny.data.rendering import render

Floats = NDArray[np.float64]
Kind = Literal["plain", "textured", "photographed"]
KINDS: tuple[Kind, ...] = ("plain", "textured", "photographed")
SIZE = 320
# Objects are traced about as large as the largest are pasted, or larger, which makes their edges soft.
_TRACED_SIZE = 400
_OBJECT_SIDE = (0.3, 0.7)
_FITTED_PHOTOGRAPHS = ("astronaut", "brick", "coffee", "grass", "immunohistochemistry", "moon", "page")
_TESTED_PHOTOGRAPHS = ("chelsea", "gravel", "hubble_deep_field", "camera", "rocket", "retina", "stereo_motorcycle")


@dataclass(frozen=True, eq=False)
class Composite:
    """A picture and what is true of it.

    picture: RGB, SIZE x SIZE. alpha: [SIZE, SIZE] in 0..1. colours: [SIZE, SIZE, 3] in 0..1, the object's own where
    alpha is not 0. ground: what is behind it, such as "stripes". seed: of the object, see make_object.
    """

    picture: Image.Image
    alpha: Floats
    colours: Floats
    kind: Kind
    ground: str
    seed: int


def make_composite(number: int, *, tested: bool, azimuth: float | None = None) -> Composite:
    """Return a composite of the half that weights are fitted on, or of the half that they are tested on.

    Kinds of grounds take turns. The object is seen from the azimuth, in degrees, or from a random one. The same number
    gives the same picture on every machine.
    """
    seed = FIRST_HELD_OUT_SEED + 2 * number + tested
    rng = np.random.default_rng(seed)
    kind = KINDS[number % len(KINDS)]
    grounds = grounds_of(kind, tested=tested)
    name = [*grounds][number // len(KINDS) % len(grounds)]
    ground = grounds[name](rng)
    colours, alpha = _place_object(seed, rng, azimuth)
    lit = ground * (1 - _shadow(alpha, rng)[..., None])
    blended = alpha[..., None] * colours + (1 - alpha[..., None]) * lit
    picture = Image.fromarray((blended.clip(0, 1) * 255).round().astype(np.uint8))
    return Composite(picture, alpha, colours, kind, name, seed)


def _place_object(seed: int, rng: np.random.Generator, azimuth: float | None) -> tuple[Floats, Floats]:
    """Return colours and alpha of an object somewhere in the picture."""
    side = float(rng.uniform(0, 360)) if azimuth is None else azimuth
    packed = ObjectBatch.pack([make_object(seed).primitives], torch.device("cpu"))
    traced = render(packed, _TRACED_SIZE, azimuth=side)[0].double()
    rows, columns = (traced[3].amax(dim=axis).nonzero() for axis in (1, 0))
    cut = traced[:, int(rows.min()) : int(rows.max()) + 1, int(columns.min()) : int(columns.max()) + 1]
    scale = rng.uniform(*_OBJECT_SIDE) * SIZE / max(cut.shape[1:])
    height, width = (max(1, round(side * scale)) for side in cut.shape[1:])
    # Colours are averaged over the object alone.
    weighted = torch.cat([cut[:3] * cut[3:], cut[3:]])[None]
    small = F.interpolate(weighted, (height, width), mode="bilinear", antialias=True)[0].numpy()
    top, left = (int(rng.uniform(0.1, 0.9) * (SIZE - side)) for side in (height, width))
    alpha, colours = np.zeros((SIZE, SIZE)), np.zeros((SIZE, SIZE, 3))
    alpha[top : top + height, left : left + width] = small[3]
    colours[top : top + height, left : left + width] = (small[:3] / np.maximum(small[3:], 1e-9)).transpose(1, 2, 0)
    return colours, alpha


def _shadow(alpha: Floats, rng: np.random.Generator) -> Floats:
    """Return how much darker the ground is: the object's silhouette, displaced to below and blurred."""
    shifted = np.roll(alpha, (int(rng.uniform(4, 20)), int(rng.uniform(-25, 25))), axis=(0, 1))
    blurred = Image.fromarray((shifted * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(rng.uniform(2, 10)))
    return rng.uniform(0.2, 0.6) * np.asarray(blurred) / 255


def _colour(rng: np.random.Generator) -> Floats:
    return rng.uniform(0.05, 0.95, 3)


def _mix(share: Floats, rng: np.random.Generator) -> Floats:
    """Return the colours between two random ones for shares [SIZE, SIZE] in 0..1."""
    return share[..., None] * _colour(rng) + (1 - share[..., None]) * _colour(rng)


def _coordinates(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Return x and y of each pixel in 0..1, turned by a random angle."""
    y, x = (np.mgrid[:SIZE, :SIZE] / SIZE).astype(np.float64)
    angle = rng.uniform(0, np.pi)
    return x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)


def _noise(rng: np.random.Generator, cells: int) -> Floats:
    """Return smooth noise in 0..1 with about so many bumps across."""
    coarse = torch.from_numpy(rng.uniform(0, 1, (1, 1, cells + 1, cells + 1)))
    smooth = F.interpolate(coarse, (SIZE, SIZE), mode="bicubic", align_corners=True)[0, 0].numpy()
    return smooth.clip(0, 1)


def _uniform(rng: np.random.Generator) -> Floats:
    return np.broadcast_to(_colour(rng), (SIZE, SIZE, 3)).copy()


def _white(rng: np.random.Generator) -> Floats:
    return np.full((SIZE, SIZE, 3), rng.uniform(0.9, 1.0))


def _gradient(rng: np.random.Generator) -> Floats:
    x, _ = _coordinates(rng)
    return _mix((x - x.min()) / np.ptp(x), rng)


def _floor(rng: np.random.Generator) -> Floats:
    ground = _gradient(rng)
    ground[int(rng.uniform(0.5, 0.8) * SIZE) :] = _colour(rng)
    return ground


def _stripes(rng: np.random.Generator) -> Floats:
    x, _ = _coordinates(rng)
    return _mix((np.sin(2 * np.pi * rng.uniform(3, 15) * x) > 0).astype(np.float64), rng)


def _checkers(rng: np.random.Generator) -> Floats:
    x, y = _coordinates(rng)
    number = rng.uniform(3, 12)
    return _mix((np.floor(number * x) + np.floor(number * y)) % 2, rng)


def _clouds(rng: np.random.Generator) -> Floats:
    return _mix(0.6 * _noise(rng, 5) + 0.3 * _noise(rng, 15) + 0.1 * _noise(rng, 60), rng)


def _dots(rng: np.random.Generator) -> Floats:
    x, y = _coordinates(rng)
    number = rng.uniform(4, 14)
    return _mix((np.hypot(number * x % 1 - 0.5, number * y % 1 - 0.5) < rng.uniform(0.2, 0.4)).astype(np.float64), rng)


def _wood(rng: np.random.Generator) -> Floats:
    x, y = _coordinates(rng)
    rings = np.hypot(x + 0.3 * _noise(rng, 3), 0.1 * y)
    return _mix(0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(6, 20) * rings), rng)


def _mosaic(rng: np.random.Generator) -> Floats:
    cells = int(rng.integers(5, 14))
    tiles = rng.uniform(0.05, 0.95, (cells, cells, 3))
    index = (np.arange(SIZE) * cells) // SIZE
    return tiles[index][:, index]


Ground = Callable[[np.random.Generator], Floats]
_PLAIN: Mapping[str, Ground] = {"white": _white, "uniform": _uniform, "gradient": _gradient, "floor": _floor}
_TEXTURES: Mapping[bool, Mapping[str, Ground]] = {
    False: {"stripes": _stripes, "checkers": _checkers, "clouds": _clouds},
    True: {"dots": _dots, "wood": _wood, "mosaic": _mosaic},
}


def grounds_of(kind: Kind, *, tested: bool) -> Mapping[str, Ground]:
    """Return the grounds of a kind in one of the halves by name; each draws [SIZE, SIZE, 3] in 0..1."""
    return {"plain": _PLAIN, "textured": _TEXTURES[tested], "photographed": _photographs(tested)}[kind]


def _photographs(tested: bool) -> Mapping[str, Ground]:
    return {name: _crop_of(name) for name in (_TESTED_PHOTOGRAPHS if tested else _FITTED_PHOTOGRAPHS)}


def _crop_of(name: str) -> Ground:
    """Return a ground of a photograph: a square of at least half its shorter side, mirrored every second time."""

    def crop(rng: np.random.Generator) -> Floats:
        from skimage import data

        loaded = getattr(data, name)()
        photograph = Image.fromarray(loaded[0] if isinstance(loaded, tuple) else loaded).convert("RGB")
        side = int(rng.uniform(0.5, 1.0) * min(photograph.size))
        left, top = (int(rng.uniform(0, 1) * (length - side)) for length in photograph.size)
        square = photograph.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.LANCZOS)
        pixels = np.asarray(square) / 255
        return pixels[:, ::-1] if rng.uniform() < 0.5 else pixels

    return crop
