"""Where weights are on this machine: a directory, the embedded checkpoint, or the local Hugging Face cache.

Nothing here uses the network: weights are downloaded beforehand.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import CheckpointError

EMBEDDED = "embedded"
_EMBEDDED_DIRECTORY = Path(__file__).parent / "checkpoints" / "tiny"
# Upstream names its image encoders as torch.hub does; these are the same networks for transformers.
_HUB_NAMES = {
    "dinov2_vits14_reg": "facebook/dinov2-with-registers-small",
    "dinov2_vitb14_reg": "facebook/dinov2-with-registers-base",
    "dinov2_vitl14_reg": "facebook/dinov2-with-registers-large",
    "dinov2_vitg14_reg": "facebook/dinov2-with-registers-giant",
}


def locate(reference: str, marker: str) -> Path:
    """The directory that holds `marker` for "embedded", a path, or a Hugging Face id already downloaded.

    Raises CheckpointError naming the download command if it is not on this machine.
    """
    if reference == EMBEDDED:
        return _EMBEDDED_DIRECTORY
    path = Path(reference).expanduser()
    if (path / marker).is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"{path} is no checkpoint: it has no {marker}")
    if reference.count("/") != 1 or reference.startswith((".", "~", "/")):
        raise CheckpointError(f"the checkpoint directory {path} does not exist")
    # Imported only when needed, since it is slow.
    from huggingface_hub import try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(reference, marker)
    except ValueError as error:
        raise CheckpointError(f"{reference!r} is neither a directory nor a Hugging Face id: {error}") from None
    if not isinstance(cached, str):
        raise CheckpointError(f"the weights {reference} are not on this machine: run `hf download {reference}`")
    return Path(cached).parent


def locate_image_encoder(name: str, checkpoint: Path) -> Path:
    """The transformers directory of an image encoder: beside the checkpoint, upstream's name, a path, or an id.

    Raises CheckpointError if the checkpoint names none or it is not on this machine.
    """
    if not name:
        raise CheckpointError(f"{checkpoint / 'pipeline.json'} names no image encoder (image_cond_model)")
    if (checkpoint / name / "config.json").is_file():
        return checkpoint / name
    return locate(_HUB_NAMES.get(name, name), "config.json")
