"""Files of the Hugging Face hub: found, downloaded where the last attempt stopped, and checked.

The hub's own client makes the requests, knows the token and lays the cache out. It starts interrupted files over and
does not compare checksums, so that both are done here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get, repo_folder_name
from huggingface_hub.utils import build_hf_headers


class DownloadError(Exception):
    """A download that failed; `retry` tells whether running it again may help."""

    def __init__(self, message: str, *, retry: bool = False) -> None:
        super().__init__(message)
        self.retry = retry


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository as the hub describes it; checksum is the sha256 of its content or its git blob id."""

    repository: str
    path: str
    revision: str | None
    checksum: str
    size: int | None

    def __str__(self) -> str:
        return f"{self.repository}/{self.path}"


@contextmanager
def _explained(repository: str, revision: str | None, what: str) -> Iterator[None]:
    """Turn what the client raises into a DownloadError of one line."""
    hub = constants.ENDPOINT
    try:
        yield
    except GatedRepoError:
        raise DownloadError(f"{repository} is gated: accept its terms at {hub}/{repository} and set HF_TOKEN") from None
    except RepositoryNotFoundError:
        raise DownloadError(
            f"{hub} has no repository {repository}, or it is private: check the name, or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise DownloadError(f"{repository} has no revision {revision}") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise DownloadError(
                f"{hub} refused {what} with HTTP {status}: set HF_TOKEN to a token that may read {repository}"
            ) from None
        raise DownloadError(f"{hub} answered HTTP {status} for {what}", retry=status >= 500 or status == 429) from None
    except OfflineModeIsEnabled:
        raise DownloadError("HF_HUB_OFFLINE is set: unset it to download") from None
    except HTTPError as error:
        raise DownloadError(
            f"{hub} cannot be reached for {what} ({type(error).__name__}: {error}); what has arrived is kept",
            retry=True,
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk is full: {what} needs more room") from None
        raise DownloadError(f"{what}: {' '.join(str(error).split())}", retry=error.errno is None) from None
    except ValueError as error:
        raise DownloadError(f"{repository!r} is no Hugging Face id: {' '.join(str(error).split())}") from None


def find(repository: str, path: str, revision: str | None) -> RemoteFile | None:
    """The file as the hub describes it, or None if the repository has no such file. Raises DownloadError."""
    what = f"{repository}/{path}"
    with _explained(repository, revision, what):
        try:
            metadata = get_hf_file_metadata(hf_hub_url(repository, path, revision=revision))
        except RemoteEntryNotFoundError:
            return None
    if metadata.etag is None or len(metadata.etag) not in (40, 64):
        raise DownloadError(f"{constants.ENDPOINT} gives no checksum for {what}, so that it could not be verified")
    return RemoteFile(repository, path, revision, metadata.etag, metadata.size)


def is_intact(file: RemoteFile, path: Path) -> bool:
    """Whether `path` holds the file's very content."""
    with path.open("rb") as content:
        if len(file.checksum) == 64:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.checksum
        data = content.read()
    blob = b"blob %d\0" % len(data) + data
    return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == file.checksum


def to_path(file: RemoteFile, target: Path) -> None:
    """Download the file to `target` unless it is there intact. Raises DownloadError; what has arrived is kept."""
    with _explained(file.repository, file.revision, str(file)):
        if target.is_file() and is_intact(file, target):
            return
        target.unlink(missing_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Named by the checksum, so that parts of two versions never meet.
        partial = target.with_name(f"{target.name}.{file.checksum[:16]}.incomplete")
        _resume(file, partial)
        if not is_intact(file, partial):
            partial.unlink()
            raise DownloadError(f"{file} arrived damaged (another checksum than the hub's); deleted", retry=True)
        partial.replace(target)


def _resume(file: RemoteFile, partial: Path) -> None:
    with partial.open("ab") as content:
        try:
            fcntl.flock(content, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(f"{file} is being downloaded by another process", retry=True) from None
        if file.size is not None:
            if content.tell() > file.size:
                content.seek(0)
                content.truncate()
            free, missing = shutil.disk_usage(partial.parent).free, file.size - content.tell()
            if missing > free:
                raise DownloadError(
                    f"the disk is full: {file} needs {missing / 1e9:.2f} GB more, {partial.parent} has {free / 1e9:.2f}"
                )
        http_get(
            hf_hub_url(file.repository, file.path, revision=file.revision),
            content,
            resume_size=content.tell(),
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.size,
            displayed_filename=str(file),
        )


def to_cache(file: RemoteFile) -> Path:
    """Download the file into the Hugging Face cache unless it is there intact; returns its path there."""
    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=file.repository, repo_type="model")
    to_path(file, folder / "blobs" / file.checksum)
    with _explained(file.repository, file.revision, str(file)):
        # Finds the content in place, and only notes which commit and path it belongs to.
        return Path(hf_hub_download(file.repository, file.path, revision=file.revision))
