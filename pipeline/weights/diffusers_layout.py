"""The files of a text-to-image model in diffusers' layout: safetensors, in half precision if available."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.weights.locate import MODEL_INDEX

# Files that tokenizers of the supported kinds consist of; no repository has all of them.
_TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)
# Configuration files of components without weights, by the ending of their class's name.
_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Processor": "preprocessor_config.json",
    "FeatureExtractor": "preprocessor_config.json",
}


def get_model_files(has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """Get all files that a model needs, beginning with its model_index.json.

    `has` returns whether a path is in the repository or directory, `get` downloads or checks the file and returns where
    it is. Raises CheckpointError if a component has no safetensors, and what `get` raises.
    """
    for folder, library, class_name in _list_components(get(MODEL_INDEX)):
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


def _list_components(index: Path) -> Iterator[tuple[str, str, str]]:
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
