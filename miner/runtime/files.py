"""Files that several processes share: written whole or not at all, locked, and watched for changes."""

import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

# By path, the modification time in nanoseconds, size in bytes and inode of each file that exists.
FileStamps = dict[Path, tuple[int, int, int]]


def write_atomically(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Replace a file so that readers see either its old content or all of the new one.

    Text is written as UTF-8, with its line ends as they are. A file that is replaced keeps its mode, and a symbolic
    link keeps pointing to it. With `sync` the data is on the disk before the file is replaced, so that it also survives
    a power cut. Raises OSError naming the file; the partial file, a sibling called .NAME.(8 hex digits).part, is then
    removed.
    """
    path = path.resolve()
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        if path.exists():
            partial.chmod(path.stat().st_mode)
        partial.replace(path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            error.filename = str(path)
        raise


@contextmanager
def opened_folder(folder: Path) -> Iterator[int]:
    """Hold a folder open by its descriptor, whatever becomes of its path. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock .NAME.lock beside a path, which need not exist, making the folder if it is missing. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


class FileWatcher:
    """A watcher that notices when any of some files is changed, replaced, created or deleted."""

    def __init__(self, list_files: Callable[[], Iterable[Path]]) -> None:
        """Start with no file read yet, so that the second poll reports a change unless `mark_read` comes first.

        `list_files` is called at each poll and returns the files to watch, whether or not they exist.
        """
        self._list_files = list_files
        self._last: FileStamps | None = None
        self._read: FileStamps | None = None

    def changed(self) -> bool:
        """Return whether the files differ from those last read and have stayed the same since the last poll.

        The caller then reads them; an editor that writes in two steps would otherwise be caught halfway.
        """
        stamps = self._stamps()
        is_settled = stamps == self._last
        self._last = stamps
        if not is_settled or stamps == self._read:
            return False
        self._read = stamps
        return True

    def mark_read(self) -> None:
        """Take the files as they are now for read; call it before reading them, so that no later change is missed."""
        self._last = self._read = self._stamps()

    def _stamps(self) -> FileStamps:
        stamps: FileStamps = {}
        for path in self._list_files():
            with suppress(OSError):
                status = path.stat()
                stamps[path] = status.st_mtime_ns, status.st_size, status.st_ino
        return stamps
