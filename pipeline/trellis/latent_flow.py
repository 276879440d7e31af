"""The structured-latent (SLAT) flow, which computes the velocity of the features on occupied voxels."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis.blocks import ModulatedBlock
from pipeline.trellis.layers import FINAL_NORM_EPS, TimestepEmbedder, cast_matmul_weights, position_embedding
from pipeline.trellis.sparse_blocks import SparseResBlock3d
from pipeline.trellis.voxels import VoxelGrid


class SLatFlowModel(nn.Module):
    """A U-shaped transformer: residual blocks at full resolution around attention over coarser voxels."""

    def __init__(
        self, resolution: int, in_channels: int, model_channels: int, cond_channels: int, out_channels: int,
        num_blocks: int, num_heads: int | None = None, num_head_channels: int = 64, mlp_ratio: float = 4,
        patch_size: int = 2, num_io_res_blocks: int = 2, io_block_channels: Sequence[int] = (), pe_mode: str = "ape",
        use_fp16: bool = False, use_checkpoint: bool = False, use_skip_connection: bool = True,
        share_mod: bool = False, qk_rms_norm: bool = False, qk_rms_norm_cross: bool = False,
    ) -> None:  # fmt: skip
        """Create the layers from the arguments in the checkpoints' JSON files.

        `use_fp16` there says how the weights are stored; `to_precision` chooses the precision of the computation.
        Raises ValueError on settings that the public checkpoints do not use.
        """
        super().__init__()
        if pe_mode != "ape" or share_mod:
            raise ValueError("only pe_mode 'ape' without share_mod is supported, as in the public checkpoints")
        if patch_size != 2 ** len(io_block_channels):
            raise ValueError(f"patch_size {patch_size} needs log2(patch_size) entries in io_block_channels")
        self.resolution = resolution
        self.in_channels = in_channels
        self.use_skip_connection = use_skip_connection
        self.dtype = torch.float32
        heads = num_heads or model_channels // num_head_channels
        widths = [*io_block_channels, model_channels]

        self.t_embedder = TimestepEmbedder(model_channels)
        self.input_layer = nn.Linear(in_channels, widths[0])
        self.input_blocks = nn.ModuleList()
        for width, coarser in pairwise(widths):
            for _ in range(num_io_res_blocks - 1):
                self.input_blocks.append(SparseResBlock3d(width, model_channels, width))
            self.input_blocks.append(SparseResBlock3d(width, model_channels, coarser, "down"))
        norms = {"qk_rms_norm": qk_rms_norm, "qk_rms_norm_cross": qk_rms_norm_cross}
        self.blocks = nn.ModuleList(
            ModulatedBlock(model_channels, cond_channels, heads, mlp_ratio, **norms) for _ in range(num_blocks)
        )
        self.out_blocks = nn.ModuleList()
        joined = 2 if use_skip_connection else 1
        for coarser, width in pairwise(reversed(widths)):
            self.out_blocks.append(SparseResBlock3d(coarser * joined, model_channels, width, "up"))
            for _ in range(num_io_res_blocks - 1):
                self.out_blocks.append(SparseResBlock3d(width * joined, model_channels, width))
        self.out_layer = nn.Linear(widths[0], out_channels)

    def to_precision(self, dtype: torch.dtype) -> None:
        """Compute the blocks in `dtype`; embeddings, input and output layers stay float32, as upstream has them."""
        self.dtype = dtype
        for part in (self.input_blocks, self.blocks, self.out_blocks):
            cast_matmul_weights(part, dtype)

    def forward(self, x: Tensor, grid: VoxelGrid, t: Tensor, cond: Tensor) -> Tensor:
        """Compute the velocity at x.

        x [N, in_channels] float32 on the N voxels of `grid`, which holds B batch items; t [B], times 1000;
        cond [B, S, cond_channels]. Returns [N, out_channels] float32, rows in the order of `grid`.
        """
        time, cond = self.t_embedder(t).to(self.dtype), cond.to(self.dtype)
        h = self.input_layer(x).to(self.dtype)
        grids, skips = [grid], []
        for block in self.input_blocks:
            h = block(h, grids[-1], time)
            if block.resample == "down":
                grids.append(grids[-1].pooling.coarse)
            skips.append(h)

        coarse = grids[-1]
        h = h + position_embedding(coarse.positions, h.shape[1]).to(self.dtype)
        for block in self.blocks:
            h = block(h, coarse.samples, time, cond)

        for block in self.out_blocks:
            if block.resample == "up":
                grids.pop()
            if self.use_skip_connection:
                h = torch.cat([h, skips.pop()], dim=1)
            h = block(h, grids[-1], time)
        h = F.layer_norm(h, h.shape[-1:], eps=FINAL_NORM_EPS)
        return self.out_layer(h.to(x.dtype))
