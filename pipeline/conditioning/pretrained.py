"""Strict loading of transformers directories: tensors that do not fit are an error instead of random weights."""

import re
from pathlib import Path
from typing import Any

import torch

from pipeline.errors import CheckpointError
from pipeline.weights.hub_cache import cure, describe_missing
from pipeline.weights.locate import refuse_pickle


def silence_transformers() -> None:
    """Turn off the progress bars and warnings of transformers."""
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()


def load_pretrained(
    model_class: Any, description: str, directory: Path, device: torch.device, unused: str = "(?!)"
) -> Any:
    """Load the model of a directory (config.json, model.safetensors), float32, on `device`, in evaluation mode.

    unused: pattern of tensors that may be in the file although the model lacks them; by default it matches none.
    Raises CheckpointError, which calls the model by its `description`, if a file is missing or damaged or its tensors
    do not fit.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    if not (directory / "config.json").is_file():
        raise CheckpointError(describe_missing(directory / "config.json"))
    for weights in directory.glob("*.safetensors"):
        if not weights.exists():
            raise CheckpointError(describe_missing(weights))
    if not any(directory.glob("*.safetensors")):
        refuse_pickle(directory / "pytorch_model")
    # transformers fills in random weights where the file does not fit, and only warns; that is an error below.
    silence_transformers()
    try:
        model, report = model_class.from_pretrained(
            directory,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, StrictDataclassError) as error:
        raise CheckpointError(
            f"cannot load the {description} in {directory}: {' '.join(str(error).split())}{cure(directory)}"
        ) from error
    unexpected = {name for name in report["unexpected_keys"] if not re.match(unused, name)}
    mismatched = {name for name, *_ in report["mismatched_keys"]}
    if wrong := sorted({*report["missing_keys"], *unexpected, *mismatched}):
        raise CheckpointError(
            f"the tensors in {directory} do not fit config.json: {wrong[0]} is missing, unexpected or of another "
            f"shape ({len(wrong)} such in all)"
        )
    return model.to(device).eval().requires_grad_(False)
