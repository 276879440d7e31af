"""AlexNet, whose activations LPIPS compares: where torch.hub keeps its file, its checksum, and its download."""

import errno
import hashlib
from pathlib import Path

from pipeline.errors import CheckpointError, DownloadError
from pipeline.weights.files import check_file
from pipeline.weights.locate import HubReference
from pipeline.weights.scorers import LPIPS

ALEXNET_URL = f"https://download.pytorch.org/models/{LPIPS}"
ALEXNET_SHA256 = "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"
_SUFFIXES = (".pth", ".safetensors")
_FIRST_TENSOR = "features.0.weight"


def is_alexnet(reference: str) -> bool:
    """Return whether a reference is the published name of AlexNet's file, or the path of a file.

    All other references are names and directories. A file that is missing is known by its suffix.
    """
    path = Path(reference).expanduser()
    can_only_be_a_path = path.name.startswith("alexnet") or HubReference.parse(reference) is None
    return path.is_file() or (path.suffix in _SUFFIXES and can_only_be_a_path)


def locate_alexnet(reference: str) -> Path:
    """Return the path of AlexNet's file, in torch.hub's folder if the reference is its published name.

    Raises CheckpointError if it is not on this machine.
    """
    path = _published_path() if reference == LPIPS else Path(reference).expanduser()
    if path.is_file():
        return path
    if reference == LPIPS:
        raise CheckpointError(f"AlexNet is missing at {path}: run `sn17-miner weights download {LPIPS}`")
    raise CheckpointError(f"{path} is missing: name a file, or {LPIPS}, which `sn17-miner weights download` fetches")


def check_alexnet(reference: str) -> Path:
    """Return the path of AlexNet's file. Raise CheckpointError unless it is there and not damaged.

    A pickle must be the published one, since any other could run code; a safetensors file must have its tensors.
    """
    path = locate_alexnet(reference)
    if path.suffix == ".safetensors":
        _check_tensors(path)
        return path
    cure = f"delete it and run `sn17-miner weights download {LPIPS}`"
    if reference != LPIPS:
        cure = f"name a safetensors file, or {LPIPS}, which `sn17-miner weights download` fetches"
    check_published(path, cure)
    return path


def check_published(path: Path, cure: str) -> None:
    """Raise CheckpointError, whose message ends in the cure, unless a file is AlexNet as it is published."""
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if checksum != ALEXNET_SHA256:
        raise CheckpointError(
            f"{path} is not the file that is published as {ALEXNET_URL}, its sha256 is {checksum}: {cure}"
        )


def download_alexnet(reference: str) -> Path:
    """Download AlexNet's file to torch.hub's folder unless it is there, and return its path; a path is only checked.

    Raises DownloadError, and CheckpointError if a file that is there is not the published one.
    """
    if reference == LPIPS and not (path := _published_path()).is_file():
        from torch.hub import download_url_to_file

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            download_url_to_file(ALEXNET_URL, str(path), hash_prefix=ALEXNET_SHA256)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DownloadError(f"the disk is full: {path} does not fit") from None
            raise DownloadError(f"{ALEXNET_URL} cannot be downloaded: {error}", retry=True) from None
        except RuntimeError as error:  # another checksum
            raise DownloadError(f"{ALEXNET_URL} arrived damaged: {error}", retry=True) from None
    return check_alexnet(reference)


def _check_tensors(path: Path) -> None:
    # Imported only when needed, because it is slow.
    from safetensors import safe_open

    with safe_open(check_file(path), framework="np") as file:
        names = file.keys()
    if _FIRST_TENSOR not in names:
        raise CheckpointError(f"{path} is not AlexNet: it has no tensor {_FIRST_TENSOR}")


def _published_path() -> Path:
    # Imported only when needed, because it is slow.
    from torch.hub import get_dir

    return Path(get_dir()) / "checkpoints" / LPIPS
