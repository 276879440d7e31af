"""The embedded checkpoint, and copies of it that tests change."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.trellis.checkpoint import load_checkpoint
from pipeline.weights.locate import EMBEDDED, locate

EMBEDDED_DIRECTORY = locate(EMBEDDED, "pipeline.json")
PIPELINE = json.loads((EMBEDDED_DIRECTORY / "pipeline.json").read_text())
MODELS = PIPELINE["args"]["models"]
CPU = torch.device("cpu")
FLOW = MODELS["sparse_structure_flow_model"]


def copy_networks(folder: Path) -> Path:
    """Copy the embedded checkpoint into a folder, without the image encoder; return the folder."""
    shutil.copytree(EMBEDDED_DIRECTORY / "ckpts", folder / "ckpts")
    shutil.copy(EMBEDDED_DIRECTORY / "pipeline.json", folder)
    return folder


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    return load_checkpoint(directory, CPU, dtype)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
