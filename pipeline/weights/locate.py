"""Where weights are on this machine: in a directory, the embedded checkpoint, or the local Hugging Face cache.

Nothing here uses the network: weights are downloaded beforehand.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.weights.files import NETWORK_SUFFIXES, PIPELINE_FILE, EncoderKind
from pipeline.weights.hub_cache import DamagedCache, check_cached, describe_missing
from pipeline.weights.revisions import PINNED_REVISIONS

# For images, and for sentences with the same networks.
EMBEDDED, EMBEDDED_TEXT = "embedded", "embedded-text"
_CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
_EMBEDDED = {EMBEDDED: _CHECKPOINTS / "tiny", EMBEDDED_TEXT: _CHECKPOINTS / "tiny-text"}
# Upstream names its image encoders as torch.hub does; these are the same networks for transformers.
HUB_NAMES = {
    "dinov2_vits14_reg": "facebook/dinov2-with-registers-small",
    "dinov2_vitb14_reg": "facebook/dinov2-with-registers-base",
    "dinov2_vitl14_reg": "facebook/dinov2-with-registers-large",
    "dinov2_vitg14_reg": "facebook/dinov2-with-registers-giant",
}
# The validator's quality scorer: its weights at the revision that validators use, and the repository that has the
# configuration of its backbone.
SCORER = "404-Gen/validation@948bf06988b630681c7bc468aebf2bbe010856f7"
SCORER_FILE = "quality_scorer.safetensors"
SCORER_BACKBONE = "facebook/dinov2-small"
_PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True)
class HubReference:
    """A reference "org/name[/path][@revision]" to a repository of the hub or, with a path, to something in it.

    revision: None is the newest one.
    """

    repository: str
    path: str
    revision: str | None

    @staticmethod
    def parse(text: str) -> "HubReference | None":
        """Parse a reference; return None if the text can only be a path on this machine.

        Without a revision, it is the one of PINNED_REVISIONS, if the repository has one there.
        """
        name, _, revision = text.partition("@")
        parts = name.split("/", 2)
        if len(parts) < 2 or parts[0] in ("", ".", "..", "~"):
            return None
        repository = "/".join(parts[:2])
        return HubReference(repository, "".join(parts[2:]), revision or PINNED_REVISIONS.get(repository))

    def find(self, file: str) -> Path | None:
        """Return a file of the repository in the local cache, or None if it is not there.

        Raises CheckpointError if the repository is not a valid Hugging Face id, and DamagedCache if it is in the cache,
        but damaged.
        """
        # Imported only when needed, because it is slow.
        from huggingface_hub import try_to_load_from_cache

        try:
            cached = try_to_load_from_cache(self.repository, file, revision=self.revision)
        except ValueError as error:
            raise CheckpointError(
                f"{self.repository!r} is neither a directory nor a Hugging Face id: {error}"
            ) from None
        if isinstance(cached, str):
            return Path(cached)
        check_cached(self.repository, file, self.revision)
        return None


def _not_downloaded(reference: str) -> CheckpointError:
    return CheckpointError(
        f"the weights {reference} are not on this machine: run `sn17-miner weights download {reference}`"
    )


def is_embedded(reference: str) -> bool:
    """Return whether a checkpoint is one of the two toys that come with the package."""
    return reference in _EMBEDDED


def locate(reference: str, marker: str) -> Path:
    """Return the directory that holds the file `marker`.

    The reference is "embedded" or "embedded-text", a path, or "org/name[@revision]" in the local cache. Raises
    CheckpointError naming the download command if it is not on this machine.
    """
    if is_embedded(reference):
        return _EMBEDDED[reference]
    path = Path(reference).expanduser()
    if (path / marker).is_file():
        return path
    if path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {marker}")
    hub = HubReference.parse(reference)
    if hub is None or hub.path:
        raise CheckpointError(f"the checkpoint directory {path} does not exist")
    cached = hub.find(marker)
    if cached is None:
        raise _not_downloaded(reference)
    return cached.parent


def locate_encoder(name: str, kind: EncoderKind, checkpoint: Path) -> Path:
    """Return the transformers directory of the encoder that a checkpoint's pipeline.json names under the key `kind`.

    The name is a directory of the checkpoint, upstream's name, a path, or a Hugging Face id. Raises CheckpointError if
    the checkpoint names none or it is not on this machine.
    """
    if not name:
        prompts = "image" if kind == "image_cond_model" else "text"
        raise CheckpointError(f"{checkpoint / PIPELINE_FILE} names no {prompts} encoder ({kind})")
    if (checkpoint / name / "config.json").is_file():
        return checkpoint / name
    return locate(HUB_NAMES.get(name, name), "config.json")


def locate_scorer(reference: str) -> tuple[Path, Path]:
    """Return the scorer's weights, and the directory with the config.json of its backbone.

    The reference is a directory or "org/name[@revision]" in the local cache. The config.json may be in the same
    directory; otherwise it is that of facebook/dinov2-small in the cache. Raises CheckpointError naming the download
    command if a file is not on this machine.
    """
    path = Path(reference).expanduser()
    if path.is_dir() and not (path / SCORER_FILE).is_file():
        refuse_pickle(path / Path(SCORER_FILE).stem)
        raise CheckpointError(f"{path} is not a scorer: it has no {SCORER_FILE}")
    directory = locate(reference, SCORER_FILE)
    if path.is_dir() and (path / "config.json").is_file():
        return path / SCORER_FILE, path
    try:
        return directory / SCORER_FILE, locate(SCORER_BACKBONE, "config.json")
    except DamagedCache:
        raise
    except CheckpointError:
        # The command for the scorer downloads both, that for the backbone would download its weights as well.
        raise _not_downloaded(SCORER if path.is_dir() else reference) from None


def network_stem(path: str) -> str:
    """Return a network's path without the extension of one of its two files."""
    return path.removesuffix(".json").removesuffix(".safetensors")


def locate_network(reference: str, checkpoint: Path) -> Path:
    """Return the common stem of a network's two files, STEM.json and STEM.safetensors.

    The reference is a path relative to the checkpoint, any other path, or "org/name/path[@revision]" in the local
    cache; as in upstream, the first that exists is taken. Raises CheckpointError if none is on this machine.
    """
    path = network_stem(reference)
    for stem in (checkpoint / path, Path(path).expanduser()):
        if any(stem.with_name(stem.name + suffix).exists() for suffix in (*NETWORK_SUFFIXES, *_PICKLES)):
            return stem
    hub = HubReference.parse(reference)
    if hub is None or not hub.path:
        raise CheckpointError(describe_missing(checkpoint / f"{path}.json"))
    config = hub.find(f"{network_stem(hub.path)}.json")
    if config is None:
        raise _not_downloaded(reference)
    return config.with_name(config.name.removesuffix(".json"))


def refuse_pickle(stem: Path, wanted: str = "") -> None:
    """Raise CheckpointError if there is a pickle of that stem.

    To be called if the file `wanted`, by default STEM.safetensors, is missing.
    """
    wanted = wanted or f"{stem.name}.safetensors"
    for suffix in _PICKLES:
        pickle = stem.with_name(stem.name + suffix)
        if pickle.exists():
            raise CheckpointError(
                f"{pickle} is a pickle, which can run any code when it is loaded, and is refused: convert its tensors "
                f"to {wanted} (safetensors.torch.save_file), or use one published as safetensors"
            )
