"""Generated objects, voxel by voxel and splat by splat, against others of the same requests."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ARRAYS = {
    "means": "positions", "log_scales": "log scales", "quaternions": "rotations", "opacity_logits": "opacity logits",
    "f_dc": "colours",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Output:
    """An object: its voxels [N, 3] uint8, and each array of its splats, by name, float32."""

    voxels: npt.NDArray[np.uint8]
    splats: dict[str, npt.NDArray[np.float32]]

    @staticmethod
    def of(voxels: Tensor, splats: dict[str, Tensor]) -> "Output":
        """Copy tensors of any device."""
        arrays = {name: tensor.cpu().numpy().copy() for name, tensor in splats.items()}
        return Output(voxels.to("cpu", torch.uint8).numpy(), arrays)


# (number of a held-out object, structures) -> an object for each seed, on the given structures if there are any.
Make = Callable[[int, Sequence[Output] | None], list[Output]]


@dataclass
class Comparison:
    """Objects against their reference.

    identical: how many objects have the reference's bits. voxels, other_voxels: the reference's voxels, and those that
    only one of both has. largest: the largest difference of each array of the splats, on the reference's structures;
    infinite if they were not made on these.
    """

    objects: int = 0
    identical: int = 0
    voxels: int = 0
    other_voxels: int = 0
    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(ARRAYS, 0.0))

    def add(self, number: int, reference: Sequence[Output], make: Make) -> None:
        """Make the objects of a prompt and compare them, on the reference's structures if their own are others."""
        outputs = make(number, None)
        other_voxels = sum(map(count_other_voxels, outputs, reference))
        self.objects += len(reference)
        self.voxels += sum(len(output.voxels) for output in reference)
        self.other_voxels += other_voxels
        self.identical += sum(map(have_same_bits, outputs, reference))
        if other_voxels:
            outputs = make(number, reference)
        for output, expected in zip(outputs, reference, strict=True):
            for name in ARRAYS:
                difference = largest_difference(output.splats[name], expected.splats[name])
                self.largest[name] = max(self.largest[name], difference)


def count_other_voxels(output: Output, reference: Output) -> int:
    """Return the number of voxels that only one of two objects has."""
    return len({*map(tuple, output.voxels.tolist())} ^ {*map(tuple, reference.voxels.tolist())})


def largest_difference(values: npt.NDArray[np.float32], reference: npt.NDArray[np.float32]) -> float:
    """Return the largest absolute difference of two arrays; infinity if their shapes differ."""
    return float(np.abs(values - reference).max()) if values.shape == reference.shape else math.inf


def have_same_bits(output: Output, reference: Output) -> bool:
    """Return whether two objects have the same voxels and splats in the same order."""
    return np.array_equal(output.voxels, reference.voxels) and all(
        np.array_equal(output.splats[name], array) for name, array in reference.splats.items()
    )


def compare(numbers: Sequence[int], references: Sequence[Sequence[Output]], make: Make) -> Comparison:
    """Compare the objects of some prompts with their references."""
    comparison = Comparison()
    for number, reference in zip(numbers, references, strict=True):
        comparison.add(number, reference, make)
    return comparison
