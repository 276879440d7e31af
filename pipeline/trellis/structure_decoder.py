"""The sparse-structure decoder, which turns a latent grid into occupancy logits of voxels four times as fine."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.layers import cast_matmul_weights, unpatchify

CHANNEL_NORM_EPS = 1e-5


def occupied_voxels(logits: Tensor) -> Tensor:
    """Return coordinates [N, 4] int32 (batch, x, y, z) of logits [B, 1, R, R, R] above 0, in lexicographic order."""
    return torch.nonzero(logits[:, 0] > 0).int()


def likeliest_voxels(coords: Tensor, logits: Tensor, count: int) -> Tensor:
    """Return the `count` voxels of highest logit among coords [N, 4], in their order: [min(N, count), 4]."""
    kept = logits[:, 0][tuple(coords.long().T)].topk(min(count, len(coords))).indices
    return coords[kept.sort().values]


class ChannelLayerNorm(nn.LayerNorm):
    """A layer norm over the channels of each voxel, computed in float32 and returned in the input's dtype."""

    def __init__(self, channels: int) -> None:
        """Use upstream's epsilon."""
        super().__init__(channels, eps=CHANNEL_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x [B, C, X, Y, Z]; returns the same shape and dtype."""
        return super().forward(x.movedim(1, -1).float()).to(x.dtype).movedim(-1, 1)


class ResBlock3d(nn.Module):
    """A residual block of two 3x3x3 convolutions, each after a norm and SiLU."""

    def __init__(self, channels: int) -> None:
        """Create the layers, named as in the public checkpoints."""
        super().__init__()
        self.norm1 = ChannelLayerNorm(channels)
        self.norm2 = ChannelLayerNorm(channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to x [B, C, X, Y, Z]; returns the same shape."""
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class UpsampleBlock3d(nn.Module):
    """A 3x3x3 convolution to eight times the channels, then a pixel shuffle to twice the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Create the convolution."""
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels * 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample x [B, C, X, Y, Z]: [B, out_channels, 2X, 2Y, 2Z]."""
        return unpatchify(self.conv(x), 2)


class SparseStructureDecoder(nn.Module):
    """A convolutional decoder."""

    def __init__(
        self, out_channels: int, latent_channels: int, num_res_blocks: int, channels: Sequence[int],
        num_res_blocks_middle: int = 2, norm_type: str = "layer", use_fp16: bool = False,
    ) -> None:  # fmt: skip
        """Create the layers from the arguments in the checkpoints' JSON files.

        Raises ValueError on settings that the public checkpoints do not use.
        """
        super().__init__()
        if norm_type != "layer":
            raise ValueError(f"norm_type {norm_type!r} is not supported; the public checkpoints use 'layer'")
        self.dtype = torch.float32
        self.input_layer = nn.Conv3d(latent_channels, channels[0], 3, padding=1)
        self.middle_block = nn.Sequential(*(ResBlock3d(channels[0]) for _ in range(num_res_blocks_middle)))
        self.blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            self.blocks.extend(ResBlock3d(width) for _ in range(num_res_blocks))
            if level + 1 < len(channels):
                self.blocks.append(UpsampleBlock3d(width, channels[level + 1]))
        self.out_layer = nn.Sequential(
            ChannelLayerNorm(channels[-1]), nn.SiLU(), nn.Conv3d(channels[-1], out_channels, 3, padding=1)
        )

    def to_precision(self, dtype: torch.dtype) -> None:
        """Compute the blocks in `dtype`; the first and last convolutions stay float32, as upstream has them.

        bfloat16 is replaced by float32: the norm scales up voxels of small magnitude, and the rounding of bfloat16
        there decides whether voxels are occupied (18 % of the largest logit on a small network).
        """
        self.dtype = torch.float32 if dtype == torch.bfloat16 else dtype
        cast_matmul_weights(self.middle_block, self.dtype)
        cast_matmul_weights(self.blocks, self.dtype)

    def forward(self, z: Tensor) -> Tensor:
        """Decode z [B, latent_channels, R, R, R] float32 to logits [B, out_channels, 4R, 4R, 4R] float32."""
        h = self.middle_block(self.input_layer(z).to(self.dtype))
        for block in self.blocks:
            h = block(h)
        return self.out_layer(h.to(z.dtype))
