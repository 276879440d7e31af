"""The files that checkpoints and encoders consist of, and reading them without loading networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import CheckpointError

PIPELINE_FILE = "pipeline.json"
# Keys of pipeline.json's "models" that gaussians need; mesh and radiance-field decoders are ignored.
NETWORK_ROLES = ("sparse_structure_flow_model", "sparse_structure_decoder", "slat_flow_model", "slat_decoder_gs")
NETWORK_SUFFIXES = (".json", ".safetensors")
EncoderKind = Literal["image_cond_model", "text_cond_model"]
# Files of the encoder's directory, by the key of pipeline.json that names it.
ENCODER_FILES: dict[EncoderKind, tuple[str, ...]] = {
    "image_cond_model": ("config.json", "model.safetensors"),
    "text_cond_model": ("config.json", "model.safetensors", "vocab.json", "merges.txt"),
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError if the file is missing or is not one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return content


@dataclass(frozen=True)
class CheckpointReferences:
    """A pipeline.json: all that it has under "args", and what it refers to, networks by role and encoders by key."""

    args: dict[str, Any]
    networks: dict[str, str]
    encoders: dict[EncoderKind, str]


def read_references(config: Path, overrides: Mapping[str, str]) -> CheckpointReferences:
    """Read a pipeline.json, with the networks of `overrides` in place of its own. Raises CheckpointError."""
    try:
        args: dict[str, Any] = read_json(config)["args"]
        networks = {role: overrides.get(role) or args["models"][role] for role in NETWORK_ROLES}
    except KeyError as missing:
        raise CheckpointError(f"{config} lacks the key {missing}") from None
    except TypeError as error:
        raise CheckpointError(f"{config}: {error}") from None
    for reference in networks.values():
        if not isinstance(reference, str):
            raise CheckpointError(f"{config}: a network's path must be a string, not {reference!r}")
    return CheckpointReferences(args, networks, {key: args[key] for key in ENCODER_FILES if args.get(key)})


def check_file(path: Path) -> Path:
    """Return the path of a file that is there, and readable if it is JSON or safetensors. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.suffix == ".json":
        read_json(path)
    if path.suffix == ".safetensors":
        # Imported only when needed, because it is slow.
        from safetensors import SafetensorError, safe_open

        try:
            # Opening fails unless the file has the size that its header implies.
            with safe_open(path, framework="np") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from None
    return path
