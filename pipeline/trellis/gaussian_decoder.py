"""The gaussian decoder, which turns structured latents into the raw channels of 32 gaussians per voxel."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.blocks import PlainBlock
from pipeline.trellis.gaussians import GaussianConfig, offset_perturbation
from pipeline.trellis.layers import FINAL_NORM_EPS, cast_matmul_weights, position_embedding
from pipeline.trellis.voxels import VoxelGrid


class SLatGaussianDecoder(nn.Module):
    """A transformer with attention in shifted windows."""

    def __init__(
        self, resolution: int, model_channels: int, latent_channels: int, num_blocks: int,
        representation_config: Mapping[str, Any], num_heads: int | None = None, num_head_channels: int = 64,
        mlp_ratio: float = 4, attn_mode: str = "swin", window_size: int = 8, pe_mode: str = "ape",
        use_fp16: bool = False, use_checkpoint: bool = False, qk_rms_norm: bool = False,
    ) -> None:  # fmt: skip
        """Create the layers from the arguments in the checkpoints' JSON files.

        Raises ValueError on settings that the public checkpoints do not use.
        """
        super().__init__()
        if pe_mode != "ape" or attn_mode != "swin":
            raise ValueError("only pe_mode 'ape' and attn_mode 'swin' are supported, as in the public checkpoints")
        self.resolution = resolution
        self.window_size = window_size
        self.config = GaussianConfig.from_json(representation_config)
        self.dtype = torch.float32
        heads = num_heads or model_channels // num_head_channels
        self.input_layer = nn.Linear(latent_channels, model_channels)
        self.blocks = nn.ModuleList(
            PlainBlock(model_channels, heads, mlp_ratio, qk_rms_norm=qk_rms_norm) for _ in range(num_blocks)
        )
        # Position 3, colour 3, scale 3, rotation 4 and opacity 1 for each gaussian.
        self.out_layer = nn.Linear(model_channels, 14 * self.config.num_gaussians)
        self.offset_perturbation: Tensor
        self.register_buffer("offset_perturbation", offset_perturbation(self.config))

    def to_precision(self, dtype: torch.dtype) -> None:
        """Compute the blocks in `dtype`; input and output layers stay float32, as upstream has them."""
        self.dtype = dtype
        cast_matmul_weights(self.blocks, dtype)

    def forward(self, x: Tensor, grid: VoxelGrid) -> Tensor:
        """Decode denormalised latents [N, latent_channels] float32 on the voxels of `grid` to raw channels [N, 448]."""
        h = (self.input_layer(x) + position_embedding(grid.positions, self.input_layer.out_features)).to(self.dtype)
        for index, block in enumerate(self.blocks):
            h = block(h, grid.windows(self.window_size, self.window_size // 2 * (index % 2)))
        return self.out_layer(F.layer_norm(h.to(x.dtype), h.shape[-1:], eps=FINAL_NORM_EPS))
