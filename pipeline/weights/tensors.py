"""Tensors of a safetensors file, and setting a network's weights to them."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.weights.files import check_file
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import refuse_pickle


def read_tensors(path: Path, is_wanted: Callable[[str], bool] = lambda _: True) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file whose names are wanted, by default all, on the CPU, in float32.

    Raises CheckpointError if the file is missing or damaged.
    """
    # Imported only when needed, because it is slow.
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        # The names that pickles of the same weights are published under.
        for stem in (path.stem, "pytorch_model"):
            refuse_pickle(path.with_name(stem), path.name)
    check_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name).float() for name in file.keys() if is_wanted(name)}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {' '.join(str(error).split())}{cure(path)}") from None


def assign_tensors(network: nn.Module, tensors: dict[str, Tensor], path: Path, prefix: str = "") -> None:
    """Set all weights of a network, which may be on the meta device, and prepare it for evaluation.

    prefix: what precedes the names in the file. Raises CheckpointError if a tensor of the file `path` is missing, left
    over or of another shape.
    """
    expected = network.state_dict()
    wrong = [name for name, weight in expected.items() if name not in tensors or tensors[name].shape != weight.shape]
    wrong += sorted(tensors.keys() - expected.keys())
    if wrong:
        raise CheckpointError(
            f"the tensors in {path} do not fit its configuration: {prefix}{wrong[0]} is missing, unexpected or of "
            f"another shape ({len(wrong)} such in all)"
        )
    network.load_state_dict(tensors, assign=True)
    network.eval().requires_grad_(False)
