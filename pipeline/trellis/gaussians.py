"""Conversion of the gaussian decoder's raw channels to splats: layout, activations and export transform.

Formulas: microsoft/TRELLIS, `Gaussian` representation and its `save_ply`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.splats.splats import Splats
from pipeline.trellis.voxels import VoxelGrid

# The object's cube is [0, 1]^3 in voxel units and [-0.5, 0.5]^3 in space.
_AABB_MIN = -0.5
# In the order of the decoder's channels.
_ATTRIBUTES = ("_xyz", "_features_dc", "_scaling", "_rotation", "_opacity")


@dataclass(frozen=True)
class GaussianConfig:
    """The `representation_config` of a gaussian decoder's JSON file, with its key names."""

    num_gaussians: int
    voxel_size: float
    perturb_offset: bool
    kernel_size_3d: float
    scaling_bias: float
    opacity_bias: float
    lr: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def from_json(config: Mapping[str, Any]) -> "GaussianConfig":
        """Parse the configuration; raise ValueError if a key is missing or the activation is not softplus."""
        names = ("num_gaussians", "voxel_size", "perturb_offset", "scaling_bias", "opacity_bias")
        try:
            activation = config["scaling_activation"]
            rates = {name: config["lr"][name] for name in _ATTRIBUTES}
            values = {name: config[name] for name in names}
            parsed = GaussianConfig(**values, kernel_size_3d=config["3d_filter_kernel_size"], lr=rates)
        except KeyError as missing:
            raise ValueError(f"representation_config lacks {missing}") from None
        if activation != "softplus":
            raise ValueError(f"scaling_activation {activation!r} is not supported; the checkpoints use 'softplus'")
        return parsed


def radical_inverse(index: int, base: int) -> float:
    """Mirror the digits of `index` in `base` at the decimal point (van der Corput sequence)."""
    value, fraction = 0.0, 1.0
    while index:
        fraction /= base
        index, digit = divmod(index, base)
        value += digit * fraction
    return value


def hammersley(count: int) -> Tensor:
    """Return `count` points of the Hammersley sequence in [0, 1)^3: [count, 3] float64."""
    points = [(i / count, radical_inverse(i, 2), radical_inverse(i, 3)) for i in range(count)]
    return torch.tensor(points, dtype=torch.float64, device="cpu")


def offset_perturbation(config: GaussianConfig) -> Tensor:
    """Return offsets before tanh that spread a voxel's gaussians evenly: [num_gaussians, 3] float32, zero if unused."""
    if not config.perturb_offset:
        return torch.zeros(config.num_gaussians, 3, device="cpu")
    return torch.atanh((2 * hammersley(config.num_gaussians) - 1) / config.voxel_size).float()


@dataclass(frozen=True, eq=False)
class RawGaussians:
    """Gaussians before activation in M = voxels * num_gaussians rows, voxel-major, float32.

    xyz [M, 3] in the unit cube [0, 1]^3 (z up); features_dc [M, 3]; scaling [M, 3]; rotation [M, 4] and
    opacity [M] without their biases.
    """

    xyz: Tensor
    features_dc: Tensor
    scaling: Tensor
    rotation: Tensor
    opacity: Tensor
    config: GaussianConfig

    @property
    def positions(self) -> Tensor:
        """Positions [M, 3] in the cube [-0.5, 0.5]^3, z up."""
        return self.xyz + _AABB_MIN

    @property
    def scales(self) -> Tensor:
        """Standard deviations [M, 3], never below the kernel size of the 3D filter."""
        # The bias is where softplus takes the value scaling_bias.
        bias = self.config.scaling_bias + math.log(-math.expm1(-self.config.scaling_bias))
        return (F.softplus(self.scaling + bias).square() + self.config.kernel_size_3d**2).sqrt()

    @property
    def quaternions(self) -> Tensor:
        """Unit quaternions [M, 4], w first."""
        return F.normalize(self.rotation + self.rotation.new_tensor([1.0, 0.0, 0.0, 0.0]))

    @property
    def opacities(self) -> Tensor:
        """Opacities [M] in (0, 1)."""
        bias = math.log(self.config.opacity_bias / (1 - self.config.opacity_bias))
        return torch.sigmoid(self.opacity + bias)


def to_gaussians(
    raw: Tensor, grid: VoxelGrid, resolution: int, perturbation: Tensor, config: GaussianConfig
) -> RawGaussians:
    """Split a decoder's output [N, 14 * G] on the voxels of `grid` into gaussians; perturbation is [G, 3]."""
    g = config.num_gaussians
    parts = raw.split([3 * g, 3 * g, 3 * g, 4 * g, g], dim=1)
    offset, features_dc, scaling, rotation, opacity = (
        part.unflatten(1, (g, -1)) * config.lr[name] for part, name in zip(parts, _ATTRIBUTES, strict=True)
    )
    offset = torch.tanh(offset + perturbation) / resolution * 0.5 * config.voxel_size
    xyz = (grid.positions.float()[:, None] + 0.5) / resolution + offset
    xyz, features_dc, scaling, rotation = (part.flatten(0, 1) for part in (xyz, features_dc, scaling, rotation))
    return RawGaussians(xyz, features_dc, scaling, rotation, opacity.flatten(), config)


def to_splats(gaussians: RawGaussians) -> Splats:
    """Convert gaussians to splats in the frame of upstream's PLY files."""
    shape = (gaussians.positions, gaussians.quaternions, gaussians.scales)
    return activated_to_splats(*shape, gaussians.opacities, gaussians.features_dc)


def activated_to_splats(
    positions: Tensor, quaternions: Tensor, scales: Tensor, opacities: Tensor, features_dc: Tensor
) -> Splats:
    """Convert gaussians after activation, see RawGaussians, to splats in the frame of upstream's PLY files.

    That is a quarter turn about x: (x, y, z) -> (x, -z, y). The turned quaternion is
    sqrt(1/2) * (w - x, x + w, y - z, z + y), with the sign that makes its entry of largest magnitude positive.
    """
    x, y, z = positions.unbind(1)
    w, i, j, k = quaternions.unbind(1)
    turned = math.sqrt(0.5) * torch.stack([w - i, i + w, j - k, k + j], dim=1)
    largest = turned.gather(1, turned.abs().argmax(dim=1, keepdim=True))
    return Splats(
        means=torch.stack([x, -z, y], dim=1),
        quaternions=torch.where(largest < 0, -turned, turned),
        log_scales=scales.log(),
        opacity_logits=torch.log(opacities / (1 - opacities)),
        f_dc=features_dc,
    )
