"""Strict loading of the networks of a diffusers pipeline: a missing tensor is an error instead of random weights."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from pipeline.errors import CheckpointError
from pipeline.weights.files import MODEL_INDEX, list_components
from pipeline.weights.hub_cache import cure

# Part of the names of half-precision files, which some repositories have beside those in full precision.
_HALF = "fp16"


def load_networks(diffusers: ModuleType, directory: Path, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Load the networks of a model, by the names of their folders, which diffusers would load without any check.

    Networks of classes that neither diffusers nor transformers has are left out. Raises CheckpointError if a tensor is
    missing, and whatever the two packages raise.
    """
    networks = {}
    for folder, library, class_name in list_components(directory / MODEL_INDEX):
        network_class = _find_class(diffusers, library, class_name)
        if isinstance(network_class, type) and issubclass(network_class, nn.Module):
            networks[folder] = _load(network_class, directory / folder, dtype)
    return networks


def find_variant(directory: Path) -> str | None:
    """Return the variant of the files in a directory and below it to load: half precision if there is any."""
    # Smaller, and what `weights download` prefers, too.
    return _HALF if any(f".{_HALF}." in path.name for path in directory.rglob("*.safetensors")) else None


def _find_class(diffusers: ModuleType, library: str, class_name: str) -> Any:
    # Imported only when needed, because it is slow.
    import transformers

    packages = {"diffusers": diffusers, "transformers": transformers}
    # Safety checkers belong to the module of a pipeline, of whose name the rest of the path is left out.
    package = packages.get(library) or getattr(diffusers.pipelines, library, None)
    return getattr(package, class_name, None)


def _load(network_class: Any, directory: Path, dtype: torch.dtype) -> nn.Module:
    network, report = network_class.from_pretrained(
        directory,
        dtype=dtype,
        variant=find_variant(directory),
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    if missing := sorted(report["missing_keys"]):
        raise CheckpointError(
            f"the tensors in {directory} do not fit config.json: {missing[0]} is missing ({len(missing)} such in all)"
            f"{cure(directory)}"
        )
    loaded: nn.Module = network
    return loaded
