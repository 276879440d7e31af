"""Models and scripts that come with the product or that it downloads: their licences, and how their files are known."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.weights.alexnet import ALEXNET_SHA256
from pipeline.weights.background_models import BACKGROUND_MODELS
from pipeline.weights.locate import SCORER
from pipeline.weights.revisions import PINNED_REVISIONS
from pipeline.weights.scorers import IMAGE_ALIGNMENT, LPIPS, TEXT_ALIGNMENT

# For weights whose publisher names no licence that we know of.
UNSTATED = "LicenseRef-Unstated"
CHECKPOINTS = Path("pipeline/checkpoints")
VENDORED = Path("miner/monitor/static/vendor")


@dataclass(frozen=True)
class Model:
    """A model, or a script library of the page.

    version: the commit of a repository, "" of files with a checksum. sha256: of each of its files. is_default: whether
    the shipped default phase, the phase demo, or the page uses it. note: where the licence stands, or what is missing.
    """

    name: str
    purpose: str
    licence: str
    note: str
    version: str = ""
    sha256: tuple[str, ...] = ()
    is_default: bool = False
    is_script: bool = False

    @property
    def known_by(self) -> str:
        """How a download of it is known to be the right one."""
        if self.sha256:
            return "sha256" if len(self.sha256) == 1 else f"sha256 of {len(self.sha256)} files"
        return f"revision {self.version[:12]}, hub's checksums" if self.version else "hub's checksums, newest revision"


def _published(
    name: str, purpose: str, licence: str, note: str, *, is_default: bool = False, revision: str = ""
) -> Model:
    """Return a model of the hub in its pinned revision."""
    version = revision or PINNED_REVISIONS.get(name, "")
    return Model(name, purpose, licence, note, version=version, is_default=is_default)


def models(root: Path) -> Iterator[Model]:
    """Yield all of them; those that come with the product have the checksums of the files under `root`."""
    for name in ("tiny", "tiny-text"):
        yield Model(
            name, "embedded checkpoint", "MIT", "trained by this project, scripts/train_tiny/results",
            sha256=_checksums(root / CHECKPOINTS / name), is_default=True,
        )  # fmt: skip
    card = "its card on the hub"
    yield _published("microsoft/TRELLIS-image-large", "objects from pictures", "MIT", card, is_default=True)
    yield _published("microsoft/TRELLIS-text-xlarge", "objects from sentences", "MIT", card, is_default=True)
    yield _published("facebook/dinov2-with-registers-large", "encodes pictures", "Apache-2.0", card, is_default=True)
    yield _published(
        "openai/clip-vit-large-patch14", "encodes sentences", "MIT", "openai/CLIP's LICENSE; the hub names none",
        is_default=True,
    )  # fmt: skip
    for name, digest in BACKGROUND_MODELS.items():
        is_birefnet = name.startswith("birefnet")
        origin = "ZhengPeng7/BiRefNet's LICENSE" if is_birefnet else "xuebinqin/U-2-Net's LICENSE"
        yield Model(
            name, "removes backgrounds", "MIT" if is_birefnet else "Apache-2.0", origin,
            sha256=(digest,), is_default=not is_birefnet,
        )  # fmt: skip
    scorer, _, revision = SCORER.partition("@")
    yield _published(
        scorer, "scorer, part quality", UNSTATED, "no licence is known to us: ask the subnet before you rely on it",
        revision=revision,
    )  # fmt: skip
    yield _published("facebook/dinov2-small", "scorer, part quality: config.json alone", "Apache-2.0", card)
    yield _published(TEXT_ALIGNMENT, "scorer, part alignment, sentences", "MIT", f"{card}; validators take the newest")
    name, _, revision = IMAGE_ALIGNMENT.partition("@")
    yield _published(name, "scorer, part alignment, pictures", "Apache-2.0", card, revision=revision)
    yield Model(LPIPS, "scorer, part similarity", "BSD-3-Clause", "torchvision's LICENSE", sha256=(ALEXNET_SHA256,))
    for folder in sorted(path for path in (root / VENDORED).iterdir() if path.is_dir()):
        name, _, version = folder.name.rpartition("-")
        yield Model(
            {"spark": "@sparkjsdev/spark"}.get(name, name), "splat viewer of the page", "MIT",
            f"{VENDORED / folder.name}/LICENSE", version=version, sha256=_checksums(folder),
            is_default=True, is_script=True,
        )  # fmt: skip


def _checksums(folder: Path) -> tuple[str, ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
