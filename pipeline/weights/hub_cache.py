"""The local Hugging Face cache: what may be damaged in it, and the command that repairs it.

A repository's folder has the content of files in blobs/, the commit that a revision stands for in refs/REVISION, and
in snapshots/COMMIT a link to a blob for each file.
"""

from contextlib import suppress
from pathlib import Path

from pipeline.errors import CheckpointError
from pipeline.weights.revisions import PINNED_REVISIONS

_FOLDER_PREFIX = "models--"
_SNAPSHOTS = "snapshots"
# Files in the root of what `weights download org/name` knows as a whole; other repositories have single networks.
_MARKERS = (
    "pipeline.json", "model_index.json", "quality_scorer.safetensors", "open_clip_config.json", "config.json",
)  # fmt: skip


class DamagedCache(CheckpointError):  # noqa: N818 - a state, not a fault
    """A repository that is in the cache, but not whole; the message names the file and the command that repairs it."""


def find_repository(repository: str) -> Path:
    """Return the folder of a repository "org/name" in the cache, which need not exist."""
    # Imported only when needed, because it is slow.
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"{_FOLDER_PREFIX}{repository.replace('/', '--')}"


def check_cached(repository: str, file: str, revision: str | None) -> None:
    """Raise DamagedCache if the revision is not readable, or if its link for the file leads nowhere."""
    folder = find_repository(repository)
    reference = folder / "refs" / (revision or "main")
    commit = revision or ""
    if reference.is_file():
        commit = reference.read_text(encoding="utf-8", errors="replace")
        if not commit.strip() or commit != commit.strip() or not commit.isprintable():
            name = f"{repository}@{revision}" if revision else repository
            raise DamagedCache(
                f"{reference} is damaged, it must hold a commit and nothing else, not even a newline: run "
                f"`sn17-miner weights download {name}`"
            )
    path = folder / _SNAPSHOTS / commit / file
    if commit and path.is_symlink() and not path.exists():
        raise DamagedCache(describe_missing(path))


def describe_missing(path: Path) -> str:
    """Return the message for a file that is not there, with what repairs it if the path is in the cache."""
    problem = "is a link to a file that is gone" if path.is_symlink() else "is missing"
    return f"{path} {problem}{cure(path)}"


def cure(path: Path) -> str:
    """Return ": run `sn17-miner weights download REFERENCE`" for a path in the cache, "" for any other."""
    # Links are not followed, since blobs do not tell what they belong to.
    for snapshot in (path, *path.parents):
        folder = snapshot.parent.parent
        if snapshot.parent.name == _SNAPSHOTS and folder.name.startswith(_FOLDER_PREFIX):
            return f": run `sn17-miner weights download {_reference(folder, snapshot, path)}`"
    return ""


def _reference(folder: Path, snapshot: Path, path: Path) -> str:
    """Return "org/name[/path][@commit]" for what has to be downloaded to repair a path of a snapshot."""
    name = repository = folder.name.removeprefix(_FOLDER_PREFIX).replace("--", "/")
    is_whole = any((snapshot / marker).is_symlink() or (snapshot / marker).is_file() for marker in _MARKERS)
    if not is_whole and path != snapshot:
        name += f"/{path.relative_to(snapshot).with_suffix('')}"
    default = PINNED_REVISIONS.get(repository)
    if default is None:
        with suppress(OSError, ValueError):
            default = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    return name if snapshot.name == default else f"{name}@{snapshot.name}"
