"""What the stages of training share: files, objects, and networks to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.trellis.checkpoint import NETWORK_CLASSES
from scripts.train_tiny.architecture import NETWORKS
from scripts.train_tiny.pool import Pool


@dataclass(frozen=True)
class Workplace:
    """Where the files are, what is trained on, where that is logged, and whether steps are replayed as CUDA graphs."""

    folder: Path
    pool: Pool
    log: Path
    generator: torch.Generator
    graphs: bool

    @property
    def device(self) -> torch.device:
        """The pool's."""
        return self.pool.pictures.device

    def half_precision(self) -> AbstractContextManager[object]:
        """bfloat16 for what happens inside; without the cache of weights, which graphs cannot have."""
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def build(self, name: str) -> Any:
        """A network of the shipped size with fresh weights, on the device."""
        class_name, args = NETWORKS[name]
        network = NETWORK_CLASSES[class_name.removeprefix("Elastic")](**args)
        initialise(network)
        return network.to(self.device).train()

    def load(self, name: str, network: nn.Module) -> Any:
        """The network with the weights an earlier stage saved, for use, not for training."""
        network.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        return network.to(self.device).eval().requires_grad_(False)

    def rows(self, batch: int) -> Iterator[Tensor]:
        """Random batches of the pool, without end."""
        return self.pool.batches(batch, self.generator)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a stage's file."""
        save_file(
            {key: value.contiguous().cpu() for key, value in tensors.items()}, self.folder / f"{name}.safetensors"
        )


def initialise(network: nn.Module) -> None:
    """Weights as upstream starts with: Xavier, small embeddings, and modulations and outputs of zero."""
    modules: list[Any] = list(network.modules())
    for module in modules:
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm) and module.elementwise_affine:
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif hasattr(module, "gamma"):
            nn.init.ones_(module.gamma)
        elif type(module).__name__ == "_Kernel":
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, std=fan_in**-0.5)
            nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        if name.endswith(("adaLN_modulation.1", "emb_layers.1")) or (
            name == "out_layer" and isinstance(module, nn.Linear)
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
