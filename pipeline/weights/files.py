"""The files that checkpoints, encoders and text-to-image models consist of, and reading them without loading them."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import CheckpointError
from pipeline.weights.hub_cache import cure, describe_missing

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
# The files of a CLIP in open_clip's layout.
OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
# The files of CLIP's vocabulary, and the one that holds the same where they are missing.
VOCABULARY_FILES, TOKENIZER_FILE = ("vocab.json", "merges.txt"), "tokenizer.json"
# The file that lists the components of a text-to-image model in diffusers' layout.
MODEL_INDEX = "model_index.json"
# Files that tokenizers of the supported kinds consist of; no repository has all of them.
_TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "spiece.model",
)  # fmt: skip
# Configuration files of components without weights, by the ending of their class's name.
_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Processor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises CheckpointError if the file is missing or is not one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(describe_missing(path)) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}{cure(path)}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is not a JSON object{cure(path)}")
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
        raise CheckpointError(describe_missing(path))
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
            raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}{cure(path)}") from None
    return path


def get_open_clip_files(has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """Get all files of a CLIP in open_clip's layout: its configuration, weights and vocabulary.

    `has` and `get` are as in `get_model_files`. Raises what `get` raises.
    """
    vocabulary = VOCABULARY_FILES if has(VOCABULARY_FILES[0]) or not has(TOKENIZER_FILE) else (TOKENIZER_FILE,)
    for name in (OPEN_CLIP_CONFIG, OPEN_CLIP_WEIGHTS, *vocabulary):
        get(name)


def check_model(directory: Path) -> None:
    """Raise CheckpointError if a file that a text-to-image model needs is missing or damaged."""

    def has(path: str) -> bool:
        # A link that leads nowhere stands for a file that was there.
        return (directory / path).is_symlink() or (directory / path).is_file()

    get_model_files(has, lambda path: check_file(directory / path))


def get_model_files(has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """Get all files that a text-to-image model needs: safetensors, in half precision if available.

    `has` returns whether a path is in the repository or directory, `get` downloads or checks the file and returns where
    it is. Raises CheckpointError if a component has no safetensors, and what `get` raises.
    """
    for folder, library, class_name in list_components(get(MODEL_INDEX)):
        if "Tokenizer" in class_name:
            names = [name for name in _TOKENIZER_FILES if has(f"{folder}/{name}")]
            if not names:
                raise CheckpointError(f"there is no tokenizer in {folder}/")
            for name in names:
                get(f"{folder}/{name}")
            continue
        config = next((name for ending, name in _CONFIGS.items() if class_name.endswith(ending)), None)
        get(f"{folder}/{config or 'config.json'}")
        if config is None:
            _get_weights(f"{folder}/{'diffusion_pytorch_model' if library == 'diffusers' else 'model'}", has, get)


def list_components(index: Path) -> Iterator[tuple[str, str, str]]:
    """Yield folder, library and class of each component that the model has."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        for folder, entry in content.items():
            if isinstance(entry, list) and entry[0] is not None:
                library, class_name = entry
                yield folder, str(library), str(class_name)
    except (ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{index} does not list components: {error}") from None


def _get_weights(stem: str, has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """Get the weights of one network: one file, or several that an index lists."""
    for variant in (".fp16", ""):
        if has(f"{stem}{variant}.safetensors"):
            get(f"{stem}{variant}.safetensors")
            return
        index = f"{stem}.safetensors.index{variant}.json"
        if has(index):
            try:
                shards = sorted(set(json.loads(get(index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{index} does not list files: {error}") from None
            for shard in shards:
                get(f"{stem.rpartition('/')[0]}/{shard}")
            return
    raise CheckpointError(f"there is no {stem}.safetensors; pickled weights are not used")
