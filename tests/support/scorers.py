"""A small scorer with random weights, in files laid out as the published ones."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.support.published_names import dinov2_of_transformers_4


def write_scorer(directory: Path, seed: int = 0, config: Path | None = None, *, published_names: bool = True) -> Path:
    """Weights, and the config.json of their backbone there or in another directory."""
    from transformers import Dinov2Config, Dinov2Model

    shape = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    settings = Dinov2Config(**shape, patch_size=74, image_size=518, layerscale_value=1.0)
    settings.save_pretrained(config or directory)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        f"backbone.{name}": torch.randn(tensor.shape, generator=generator) * (0.1 if tensor.ndim > 1 else 1.0)
        for name, tensor in Dinov2Model(settings).state_dict().items()
    }
    head = {"score_head.weight": (1, 8), "score_head.bias": (1,), "emb_head.weight": (4, 8), "emb_head.bias": (4,)}
    tensors |= {name: torch.randn(size, generator=generator) for name, size in head.items()}
    if published_names:
        tensors = dinov2_of_transformers_4(tensors)
    save_file(tensors, directory / "quality_scorer.safetensors")
    return directory
