"""The files of a text-to-image model in diffusers' layout: safetensors, in half precision where there are such."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.weights.hub import DownloadError
from pipeline.weights.locate import MODEL_INDEX

# What tokenizers of the kinds in use are made of; no repository has all of them.
TOKENIZER_FILES = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
)
CONFIGS = {"Scheduler": "scheduler_config.json", "Processor": "preprocessor_config.json"}
CONFIGS["FeatureExtractor"] = CONFIGS["Processor"]


def get_text_to_image(has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """Get what a model_index.json lists; `has` tells of a path whether the repository has it, `get` fetches one.

    Raises DownloadError, also if a component has no safetensors.
    """
    for folder, library, kind in _components(get(MODEL_INDEX)):
        if "Tokenizer" in kind:
            found = [name for name in TOKENIZER_FILES if has(f"{folder}/{name}")]
            if not found:
                raise DownloadError(f"there is no tokenizer in {folder}/")
            for name in found:
                get(f"{folder}/{name}")
            continue
        config = next((name for ending, name in CONFIGS.items() if kind.endswith(ending)), None)
        get(f"{folder}/{config or 'config.json'}")
        if config is None:
            _get_weights(f"{folder}/{'diffusion_pytorch_model' if library == 'diffusers' else 'model'}", has, get)


def _components(index: Path) -> Iterator[tuple[str, str, str]]:
    """Folder, library and class of each component that is not left out."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        for folder, entry in content.items():
            if isinstance(entry, list) and entry[0] is not None:
                library, kind = entry
                yield folder, str(library), str(kind)
    except (ValueError, AttributeError, IndexError) as error:
        raise DownloadError(f"{index} lists no components: {error}") from None


def _get_weights(stem: str, has: Callable[[str], bool], get: Callable[[str], Path]) -> None:
    """The weights of one network: one file or, as an index says, several."""
    for variant in (".fp16", ""):
        if has(f"{stem}{variant}.safetensors"):
            get(f"{stem}{variant}.safetensors")
            return
        index = f"{stem}.safetensors.index{variant}.json"
        if has(index):
            try:
                shards = sorted(set(json.loads(get(index).read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise DownloadError(f"{index} lists no files: {error}") from None
            for shard in shards:
                get(f"{stem.rpartition('/')[0]}/{shard}")
            return
    raise DownloadError(f"there is no {stem}.safetensors; pickled weights are not used")
