"""A golden directory, and the report of comparing with it."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.trellis.checkpoint import build_network, load_weights
from pipeline.weights.files import read_json

# Bounds on errors, relative to the golden data's largest magnitude.
BOUND = 1e-5
HALF_BOUND = 4e-3
# Its large convolutions are summed in another order on other processors: 1.5e-5 was measured, and the golden data
# itself is 9.5e-6 from the same network in float64.
STRUCTURE_DECODER_BOUND = 3e-5

Arrays = dict[str, Tensor]


@dataclass
class Report:
    """The comparisons so far, each of which is printed when it is made; `worst` is the largest error of all."""

    worst: float = 0.0
    count: int = 0
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def record(self, name: str, error: float, bound: float) -> None:
        """Add a comparison; an error that is not a number fails."""
        self.count += 1
        passed = error <= bound
        if not passed:
            self.failed.append(name)
        self.worst = max(self.worst, error)
        print(f"{name:<48} {error:.3g} (bound {bound:g}){'' if passed else '  FAILED'}")

    def compare(self, name: str, actual: Any, golden: Any, bound: float = BOUND) -> None:
        """Record the largest difference over the golden data's largest magnitude; infinities must be equal."""
        a, b = (np.asarray(values, dtype=np.float64) for values in (actual, golden))
        if a.shape != b.shape:
            self.record(f"{name}: shape {a.shape}, not {b.shape}", float("inf"), bound)
            return
        with np.errstate(invalid="ignore"):
            difference = np.where(a == b, 0.0, np.abs(a - b))
        magnitude = np.abs(b[np.isfinite(b)]).max(initial=0.0) or 1.0
        error = difference.max(initial=0.0) / magnitude
        self.record(name, float("inf") if np.isnan(error) else float(error), bound)

    def compare_exactly(self, name: str, actual: Any, golden: Any) -> None:
        """Record the share of entries that differ, which must be zero."""
        a, b = np.asarray(actual), np.asarray(golden)
        share = np.count_nonzero(a != b) / max(a.size, 1) if a.shape == b.shape else float("inf")
        self.record(name, float(share), 0.0)

    def summary(self) -> dict[str, Any]:
        """Return the content of the last line."""
        worst = min(self.worst, sys.float_info.max)
        return {"worst": worst, "n": self.count, "failed": self.failed, "skipped": self.skipped}


class Golden:
    """A golden directory: its manifest, models and arrays."""

    def __init__(self, directory: Path) -> None:
        """Read the manifest. Raises CheckpointError if it cannot be read, KeyError if a part is missing."""
        self.directory = directory
        self.manifest = read_json(directory / "manifest.json")
        self.models: Mapping[str, Any] = self.manifest["models"]
        self.files: Mapping[str, Any] = self.manifest["files"]

    def note(self, file: str) -> str:
        """Return the manifest's note on a file."""
        return str(self.files.get(file, {}).get("note", ""))

    def arrays(self, file: str) -> Arrays:
        """Load the arrays of an npz file as tensors."""
        with (self.directory / file).open("rb") as opened, np.load(opened) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}

    def network(self, file: str, class_name: str) -> Any:
        """Load the model of a file with its weights, float32 on the CPU. Raises CheckpointError.

        It is the model that the file's name begins with, else the one that its note names, else the first of the class.
        """
        names = [n for n, spec in self.models.items() if spec["class"].removeprefix("Elastic") == class_name]
        if not names:
            raise CheckpointError(f"{file} needs a {class_name}, which the manifest does not have")
        named = [n for n in names if file.startswith(n)] or [n for n in names if n in self.note(file)] or names[:1]
        spec = self.models[max(named, key=len)]
        network = build_network(spec["class"], spec["args"])
        load_weights(network, self.directory / spec["weights"], torch.device("cpu"))
        return network.eval().requires_grad_(False)


def _tapped_module(network: nn.Module, tap: str) -> nn.Module | None:
    """Return the module whose output an array such as tap_block0 or tap_t_emb holds; None if the name names none."""
    name = tap.removeprefix("tap_")
    if name == "t_emb":
        return network.get_submodule("t_embedder")
    for prefix, modules in (("block", "blocks"), ("in", "input_blocks"), ("out", "out_blocks")):
        if name.startswith(prefix) and name.removeprefix(prefix).isdigit():
            return network.get_submodule(f"{modules}.{name.removeprefix(prefix)}")
    return None


@contextmanager
def record_taps(network: nn.Module, golden: Arrays) -> Iterator[Arrays]:
    """Record what the modules behind the golden tap_* arrays return within the context, cut to as many rows."""
    outputs: Arrays = {}

    def keep(name: str, output: Tensor) -> None:
        outputs[name] = output.flatten(0, -2)[: golden[name].flatten(0, -2).shape[0]].view_as(golden[name])

    handles = []
    for tap in (name for name in golden if name.startswith("tap_")):
        if (module := _tapped_module(network, tap)) is not None:
            handles.append(module.register_forward_hook(lambda _m, _a, out, tap=tap: keep(tap, out)))
    yield outputs
    for handle in handles:
        handle.remove()
