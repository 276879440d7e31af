import os
import subprocess
import sys
from pathlib import Path

import pytest

from miner.errors import OperatorError
from miner.runtime import pid_file
from miner.runtime.pid_file import NAME, claim_folder, find_owner


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_file, "CLAIM_SECONDS", 0.0)
    folder = tmp_path / "state"
    assert find_owner(folder) is None
    with claim_folder(folder):
        assert find_owner(folder) == f"process {os.getpid()}"
        expected = f"process {os.getpid()} works on {folder} already: stop it, or give .* with --state"
        with pytest.raises(OperatorError, match=expected), claim_folder(folder):
            pass
        assert find_owner(folder) == f"process {os.getpid()}"
    assert find_owner(folder) is None
    with claim_folder(folder):
        pass


def test_a_folder_whose_files_were_deleted_has_the_same_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pid_file, "CLAIM_SECONDS", 0.0)
    with claim_folder(tmp_path):
        (tmp_path / NAME).unlink()
        assert find_owner(tmp_path) == "another process"
        with pytest.raises(OperatorError, match="another process works on"), claim_folder(tmp_path):
            pass
        assert find_owner(tmp_path) == "another process"
    assert find_owner(tmp_path) is None


@pytest.mark.process
def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from miner.runtime.pid_file import claim_folder\n"
        f"with claim_folder(pathlib.Path({str(tmp_path)!r})): print('claimed', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "claimed\n"
    assert find_owner(tmp_path) == f"process {process.pid}"
    process.kill()
    process.communicate()
    assert (tmp_path / NAME).read_text() == str(process.pid)
    assert find_owner(tmp_path) is None
    with claim_folder(tmp_path):
        assert (tmp_path / NAME).read_text() == str(os.getpid())
