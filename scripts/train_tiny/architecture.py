"""The sizes of the shipped networks and encoders, and the structure encoder that only the training needs."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.conditioning.sentences import CLIP_TOKENS
from pipeline.weights.random_init import GAUSSIANS
from scripts.train_tiny.data.voxels import LATENT_CHANNELS

IMAGE_SIZE, PATCH_SIZE, TOKEN_WIDTH = 112, 8, 128
# An image token has to predict 7 channels of each part of its patch, which is divided this often along each side.
PATCH_DIVISIONS = 2
PATCH_CHANNELS = 7 * PATCH_DIVISIONS**2
_FLOW = {
    "in_channels": LATENT_CHANNELS, "out_channels": LATENT_CHANNELS, "cond_channels": TOKEN_WIDTH,
    "patch_size": 2, "mlp_ratio": 4, "pe_mode": "ape", "qk_rms_norm": True, "use_fp16": True,
}  # fmt: skip
# Stem of the file -> class name and arguments, in the order of pipeline.weights.files.NETWORK_ROLES.
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ss_flow_tiny": ("SparseStructureFlowModel", {
        **_FLOW, "resolution": 16, "model_channels": 144, "num_blocks": 6, "num_heads": 6,
    }),
    "ss_dec_tiny": ("SparseStructureDecoder", {
        "out_channels": 1, "latent_channels": LATENT_CHANNELS, "num_res_blocks": 1, "num_res_blocks_middle": 1,
        "channels": [64, 32, 16], "use_fp16": True,
    }),
    "slat_flow_tiny": ("ElasticSLatFlowModel", {
        **_FLOW, "resolution": 64, "model_channels": 112, "num_blocks": 4, "num_heads": 7,
        "num_io_res_blocks": 2, "io_block_channels": [32],
    }),
    "slat_dec_gs_tiny": ("ElasticSLatGaussianDecoder", {
        "resolution": 64, "model_channels": 96, "latent_channels": LATENT_CHANNELS, "num_blocks": 2, "num_heads": 3,
        "mlp_ratio": 4, "attn_mode": "swin", "window_size": 8, "use_fp16": True, "representation_config": GAUSSIANS,
    }),
}  # fmt: skip


def build_image_encoder() -> Any:
    """Build a small DINOv2 with registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(
        hidden_size=TOKEN_WIDTH, num_hidden_layers=4, num_attention_heads=4,
        image_size=IMAGE_SIZE, patch_size=PATCH_SIZE, num_register_tokens=4,
    )  # fmt: skip
    return Dinov2WithRegistersModel(config)


def build_text_encoder(vocabulary_size: int) -> Any:
    """Build the text model of a small CLIP, its tokens as wide as those of images, so that the flows take either."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=vocabulary_size, bos_token_id=vocabulary_size - 2, eos_token_id=vocabulary_size - 1,
        hidden_size=TOKEN_WIDTH, intermediate_size=2 * TOKEN_WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=CLIP_TOKENS,
    )  # fmt: skip
    return CLIPTextModel(config)


class StructureEncoder(nn.Module):
    """The encoder half of the structures' VAE: three scales of convolutions."""

    def __init__(self) -> None:
        """Build the layers with PyTorch's own initial weights."""
        super().__init__()
        self.down = nn.ModuleList([nn.Conv3d(1, 32, 4, stride=2, padding=1), nn.Conv3d(32, 64, 4, stride=2, padding=1)])
        self.mix = nn.ModuleList([nn.Conv3d(64, 64, 3, padding=1) for _ in range(3)])
        self.out = nn.Conv3d(64, 2 * LATENT_CHANNELS, 3, padding=1)

    def forward(self, occupancy: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of the latents, each [B, 8, 16, 16, 16], for an occupancy [B, 64, 64, 64]."""
        h = occupancy[:, None].float()
        for down in self.down:
            h = F.silu(down(h))
        for mix in self.mix:
            h = h + F.silu(mix(h))
        mean, log_variance = self.out(h).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 4)
