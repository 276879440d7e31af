"""What the stages of the training share: files, the training set, and networks with initial or trained weights."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.trellis.checkpoint import NETWORK_CLASSES
from scripts.train_tiny.architecture import NETWORKS
from scripts.train_tiny.data.dataset import Dataset
from scripts.train_tiny.training.loop import LossFunction, optimise


@dataclass(frozen=True)
class TrainingContext:
    """The folder of the files, the training set, the log, and whether steps are replayed as CUDA graphs."""

    folder: Path
    dataset: Dataset
    log: Path
    generator: torch.Generator
    use_graphs: bool

    @property
    def device(self) -> torch.device:
        """The device that the training set is on."""
        return self.dataset.images.device

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 within the context, without the cache of weights, which CUDA graphs cannot use."""
        return torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False)

    def build(self, name: str) -> Any:
        """Build a network of the shipped size with initial weights on the device, for training."""
        class_name, args = NETWORKS[name]
        network = NETWORK_CLASSES[class_name.removeprefix("Elastic")](**args)
        initialise(network)
        return network.to(self.device).train()

    def load(self, name: str) -> Any:
        """Load a network that an earlier stage saved, for inference."""
        network = self.build(name)
        network.load_state_dict(load_file(self.folder / f"{name}.safetensors"))
        return network.eval().requires_grad_(False)

    def optimise(
        self,
        stage: str,
        networks: Sequence[nn.Module],
        loss_functions: Sequence[LossFunction],
        batch_size: int,
        seconds: float,
        *,
        learning_rate: float = 1e-3,
        has_fixed_shapes: bool = False,
    ) -> list[Any]:
        """Run `loop.optimise` on random batches; return the networks with averaged weights."""
        batches = self.dataset.batches(batch_size, self.generator)
        use_graphs = self.use_graphs and has_fixed_shapes
        return optimise(stage, networks, batches, loss_functions, seconds, learning_rate, self.log, use_graphs)

    def save(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Write a file of a stage."""
        on_cpu = {key: value.contiguous().cpu() for key, value in tensors.items()}
        save_file(on_cpu, self.folder / f"{name}.safetensors")


def initialise(network: nn.Module) -> None:
    """Initialise weights as upstream does: Xavier, with modulations and output layers of zero."""
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
