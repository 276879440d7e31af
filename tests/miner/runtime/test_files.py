import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from miner.runtime import files
from miner.runtime.files import FileWatcher, locked, write_atomically


def test_write_atomically_creates_a_file_with_the_usual_mode(tmp_path: Path) -> None:
    usual, path = tmp_path / "usual", tmp_path / "file"
    usual.write_text("")

    write_atomically(path, b"\x00\xff")

    assert path.read_bytes() == b"\x00\xff"
    assert path.stat().st_mode == usual.stat().st_mode


def test_write_atomically_writes_text_as_it_is(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "é\r\n", sync=True)

    assert (tmp_path / "file").read_bytes() == b"\xc3\xa9\r\n"


def test_write_atomically_keeps_the_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    path.chmod(0o640)

    write_atomically(path, "after")

    assert path.read_text() == "after"
    assert path.stat().st_mode & 0o777 == 0o640


def test_write_atomically_writes_where_a_link_points(tmp_path: Path) -> None:
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("before")
    link.symlink_to(target)

    write_atomically(link, "after")

    assert link.is_symlink()
    assert target.read_text() == "after"


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_write_atomically_leaves_nothing_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(*((files.os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_atomically(path, "after", sync=True)

    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomically_removes_its_partial_file_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", "text")

    assert list(tmp_path.iterdir()) == []


def test_write_atomically_raises_if_the_folder_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "text")


def test_locked_excludes_other_threads(tmp_path: Path) -> None:
    path, entered, leave, order = tmp_path / "new" / "file", threading.Event(), threading.Event(), []

    def hold() -> None:
        with locked(path):
            entered.set()
            leave.wait(10)
            order.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(10)
    threading.Timer(0.1, leave.set).start()
    with locked(path):
        order.append("second")
    thread.join()

    assert order == ["first", "second"]


@pytest.mark.process
def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "file"
    script = (
        "import os, sys; from pathlib import Path; from miner.runtime.files import locked\n"
        "with locked(Path(sys.argv[1])): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)

    with locked(path):
        assert (tmp_path / ".file.lock").exists()


def test_locked_raises_if_the_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "below"):
        pass


def test_watcher_reports_a_change_once_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    watcher = FileWatcher(lambda: [path])
    watcher.mark_read()
    assert not watcher.changed()

    path.write_text("22")
    assert not watcher.changed()
    path.write_text("333")
    assert not watcher.changed()
    assert watcher.changed()
    assert not watcher.changed()


def test_watcher_reports_files_that_were_never_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("1")
    watcher = FileWatcher(lambda: [path])

    assert [watcher.changed() for _ in range(4)] == [False, True, False, False]


def test_watcher_notices_files_that_come_go_and_are_replaced(tmp_path: Path) -> None:
    watcher = FileWatcher(lambda: tmp_path.glob("*.yaml"))
    watcher.mark_read()

    def polls() -> list[bool]:
        return [watcher.changed(), watcher.changed(), watcher.changed()]

    first = tmp_path / "first.yaml"
    first.write_text("1")
    assert polls() == [False, True, False]
    # Same size and modification time, but another inode.
    other = tmp_path / "other"
    other.write_text("2")
    os.utime(other, ns=(first.stat().st_atime_ns, first.stat().st_mtime_ns))
    other.replace(first)
    assert polls() == [False, True, False]
    first.unlink()
    assert polls() == [False, True, False]


def test_watcher_does_not_report_a_change_that_was_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "file"
    watcher = FileWatcher(lambda: [path])
    watcher.mark_read()

    path.write_text("1")
    assert not watcher.changed()
    path.unlink()
    assert [watcher.changed() for _ in range(3)] == [False] * 3
