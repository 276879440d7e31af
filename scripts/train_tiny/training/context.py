"""What the stages of the training share: files, the training set, networks, and the optimisation loop."""

import json
import math
import time
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
from scripts.train_tiny.training.optimizer import AveragedNetwork, LossFunction, Optimizer

_WARM_UP_SHARE = 0.03
_LOG_INTERVAL = 10.0
# Number of steps that the host starts before it waits for the GPU; the loop ends by the host's clock.
_STEPS_AHEAD = 16


@dataclass(frozen=True)
class TrainingContext:
    """The folder of the files and the log, the training set, and the random numbers that order its batches."""

    folder: Path
    dataset: Dataset
    generator: torch.Generator

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
        self, stage: str, networks: Sequence[nn.Module], loss_functions: Sequence[LossFunction],
        batch_size: int, seconds: float, *, learning_rate: float = 1e-3, use_graphs: bool = False,
    ) -> list[Any]:  # fmt: skip
        """Minimise the losses for the given seconds; return the networks with averaged weights.

        The loss functions take turns from step to step. With `use_graphs` they must not wait for the value of any
        tensor, and all shapes must stay the same. The learning rate rises to its maximum and then falls to zero along
        a cosine over the time that is left. Every few seconds a line with the losses is added to the log.
        """
        averages = [AveragedNetwork(network) for network in networks]
        batches = self.dataset.batches(batch_size, self.generator)
        batch = next(batches)
        optimizer = Optimizer(networks, loss_functions, batch, use_graphs=use_graphs)
        start, logged, step = time.monotonic(), 0.0, 0
        while (elapsed := time.monotonic() - start) < seconds:
            progress = elapsed / seconds
            factor = min(1.0, progress / _WARM_UP_SHARE) * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.learning_rate.fill_(learning_rate * max(factor, 1e-3))
            losses = optimizer.step(loss_functions[step % len(loss_functions)], batch)
            for average in averages:
                average.update()
            batch = next(batches)
            step += 1
            if batch.is_cuda and step % _STEPS_AHEAD == 0:
                torch.cuda.synchronize()
            if elapsed - logged >= _LOG_INTERVAL or step == 1:
                logged = elapsed
                values = {name: round(float(loss), 5) for name, loss in losses.items()}
                self.write_log({"stage": stage, "step": step, "seconds": round(elapsed, 1)} | values)
        return [average.network for average in averages]

    def write_log(self, content: dict[str, object]) -> None:
        """Print a line of JSON and add it to the log."""
        line = json.dumps(content)
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

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
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)
    for name, module in network.named_modules():
        is_output = name == "out_layer" and isinstance(module, nn.Linear)
        if is_output or name.endswith(("adaLN_modulation.1", "emb_layers.1")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
