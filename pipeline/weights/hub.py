"""Files of the Hugging Face hub: finding them, resuming their download, and verifying them.

The hub's own client makes the requests, reads the token and defines the layout of the cache. It restarts interrupted
downloads from the beginning and does not compare checksums, so both are done here.
"""

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers

from pipeline.errors import DownloadError
from pipeline.weights.locate import HubReference


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the hub describes it; checksum is the sha256 of its content or its git blob id."""

    repository: str
    path: str
    revision: str | None
    checksum: str
    size: int | None

    def __str__(self) -> str:
        """Return repository and path."""
        return f"{self.repository}/{self.path}"


@contextmanager
def _explain_errors(repository: str, revision: str | None, file: str) -> Iterator[None]:
    """Turn the client's errors into a DownloadError of one line."""
    hub = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise DownloadError(f"{repository} is gated: accept its terms at {hub}/{repository} and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        hint = "or it is private: check the name, or set HF_TOKEN"
        raise DownloadError(f"{hub} has no repository {repository}, {hint}") from None
    except errors.RevisionNotFoundError:
        raise DownloadError(f"{repository} has no revision {revision}") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise DownloadError(
                f"{hub} refused {file} with HTTP {status}: set HF_TOKEN to a token that may read {repository}"
            ) from None
        raise DownloadError(f"{hub} answered HTTP {status} for {file}", retry=status >= 500 or status == 429) from None
    except errors.OfflineModeIsEnabled:
        raise DownloadError("HF_HUB_OFFLINE is set: unset it to download") from None
    except errors.HTTPError as error:
        raise DownloadError(
            f"{hub} cannot be reached for {file} ({type(error).__name__}: {error}); the part that arrived is kept",
            retry=True,
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk is full: {file} does not fit") from None
        raise DownloadError(f"{file}: {' '.join(str(error).split())}", retry=error.errno is None) from None
    except ValueError as error:
        raise DownloadError(f"{repository!r} is not a Hugging Face id: {' '.join(str(error).split())}") from None


def find_file(source: HubReference, path: str) -> RemoteFile | None:
    """Return the file as the hub describes it, or None if the repository has no such file. Raises DownloadError."""
    name = f"{source.repository}/{path}"
    with _explain_errors(source.repository, source.revision, name):
        try:
            metadata = get_hf_file_metadata(hf_hub_url(source.repository, path, revision=source.revision))
        except errors.RemoteEntryNotFoundError:
            return None
    if metadata.etag is None or len(metadata.etag) not in (40, 64):
        raise DownloadError(f"{constants.ENDPOINT} gives no checksum for {name}, so that it cannot be verified")
    return RemoteFile(source.repository, path, source.revision, metadata.etag, metadata.size)


def is_intact(file: RemoteFile, path: Path) -> bool:
    """Return whether there is a file at `path` with the file's checksum."""
    if not path.is_file():
        return False
    with path.open("rb") as content:
        if len(file.checksum) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.checksum
        data = content.read()
    blob = b"blob %d\0" % len(data) + data
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.checksum


def download_to_path(file: RemoteFile, target: Path) -> None:
    """Download the file to `target` unless it is there intact.

    Raises DownloadError; an incomplete download is kept and resumed by the next one.
    """
    with _explain_errors(file.repository, file.revision, str(file)):
        if is_intact(file, target):
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        # The name contains the checksum, so that parts of two versions are never mixed.
        partial = target.with_name(f"{target.name}.{file.checksum[:16]}.incomplete")
        try:
            with _lock(partial):
                # Another process may have finished meanwhile.
                if is_intact(file, target):
                    return
                target.unlink(missing_ok=True)
                _resume(file, partial)
                if not is_intact(file, partial):
                    partial.unlink()
                    raise DownloadError(f"{file} arrived damaged (its checksum is not the hub's); deleted", retry=True)
                partial.replace(target)
        except Timeout:
            raise DownloadError(f"{file} is being downloaded by another process", retry=True) from None


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock for a file. Raises Timeout at once if another process holds it."""
    lock = path.with_name(f"{path.name}.lock")
    with FileLock(lock, blocking=False):
        try:
            yield
        finally:
            # Deleted while it is held; a process that has opened it already sees that and fails.
            lock.unlink(missing_ok=True)


def _resume(file: RemoteFile, partial: Path) -> None:
    with partial.open("ab") as content:
        if file.size is not None:
            if content.tell() > file.size:
                content.seek(0)
                content.truncate()
            free, missing = shutil.disk_usage(partial.parent).free, file.size - content.tell()
            if missing > free:
                raise DownloadError(
                    f"the disk is full: {file} needs {missing / 1e9:.2f} GB more, {partial.parent} has {free / 1e9:.2f}"
                )
        url = hf_hub_url(file.repository, file.path, revision=file.revision)
        headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
        http_get(
            url, content, resume_size=content.tell(), expected_size=file.size,
            headers=headers, displayed_filename=str(file),
        )  # fmt: skip


def download_to_cache(file: RemoteFile) -> Path:
    """Download the file to the Hugging Face cache unless it is there intact, and return its path there."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=file.repository, repo_type="model")
    download_to_path(file, folder / "blobs" / file.checksum)
    with _explain_errors(file.repository, file.revision, str(file)):
        # The content is there; the client only records which commit and path it belongs to.
        return Path(hf_hub_download(file.repository, file.path, revision=file.revision))
