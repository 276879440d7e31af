"""The sparse-structure flow, which computes the velocity of a dense latent grid."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.trellis import layers
from pipeline.trellis.blocks import ModulatedBlock
from pipeline.trellis.segments import Segments


class SparseStructureFlowModel(nn.Module):
    """A diffusion transformer over a dense grid of `resolution`^3 latents."""

    def __init__(
        self, resolution: int, in_channels: int, model_channels: int, cond_channels: int, out_channels: int,
        num_blocks: int, num_heads: int | None = None, num_head_channels: int = 64, mlp_ratio: float = 4,
        patch_size: int = 2, pe_mode: str = "ape", use_fp16: bool = False, use_checkpoint: bool = False,
        share_mod: bool = False, qk_rms_norm: bool = False, qk_rms_norm_cross: bool = False,
    ) -> None:  # fmt: skip
        """Create the layers from the arguments in the checkpoints' JSON files.

        `use_fp16` there says how the weights are stored; `to_precision` chooses the precision of the computation.
        Raises ValueError on settings that the public checkpoints do not use.
        """
        super().__init__()
        if pe_mode != "ape" or share_mod:
            raise ValueError("only pe_mode 'ape' without share_mod is supported, as in the public checkpoints")
        self.resolution = resolution
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.dtype = torch.float32
        heads = num_heads or model_channels // num_head_channels
        self.t_embedder = layers.TimestepEmbedder(model_channels)
        cells = range(resolution // patch_size)
        grid = torch.tensor(list(itertools.product(cells, cells, cells)), device="cpu")
        self.register_buffer("pos_emb", layers.position_embedding(grid, model_channels))
        self.input_layer = nn.Linear(in_channels * patch_size**3, model_channels)
        norms = {"qk_rms_norm": qk_rms_norm, "qk_rms_norm_cross": qk_rms_norm_cross}
        self.blocks = nn.ModuleList(
            ModulatedBlock(model_channels, cond_channels, heads, mlp_ratio, **norms) for _ in range(num_blocks)
        )
        self.out_layer = nn.Linear(model_channels, out_channels * patch_size**3)

    def to_precision(self, dtype: torch.dtype) -> None:
        """Compute the blocks in `dtype`; embeddings, input and output layers stay float32, as upstream has them."""
        self.dtype = dtype
        layers.cast_matmul_weights(self.blocks, dtype)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Compute the velocity at x.

        x [B, in_channels, R, R, R] float32 with axes (x, y, z); t [B], times 1000; cond [B, S, cond_channels].
        Returns [B, out_channels, R, R, R] float32.
        """
        batch = x.shape[0]
        patches = layers.patchify(x, self.patch_size)
        grid = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        h = (self.input_layer(tokens) + self.pos_emb).flatten(0, 1).to(self.dtype)
        segments = Segments.dense(batch, tokens.shape[1], x.device)
        time, cond = self.t_embedder(t).to(self.dtype), cond.to(self.dtype)
        for block in self.blocks:
            h = block(h, segments, time, cond)
        h = F.layer_norm(h.to(x.dtype), h.shape[-1:], eps=layers.FINAL_NORM_EPS)
        tokens = self.out_layer(h).unflatten(0, (batch, -1))
        return layers.unpatchify(tokens.transpose(1, 2).unflatten(2, grid), self.patch_size)
