import re
import subprocess
from pathlib import Path

import pytest

from miner.runtime import version as module
from miner.runtime.version import code_version, installed_version


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout, or what will be one."""
    (tmp_path / "miner").mkdir()
    monkeypatch.setattr(module, "__file__", str(tmp_path / "miner" / "runtime" / "version.py"))
    return tmp_path


def test_without_a_checkout_it_is_the_packages(root: Path) -> None:
    assert code_version() == installed_version()
    assert re.fullmatch(r"\d[\w.]*|unknown", code_version())


def test_in_a_checkout_it_names_the_commit_and_whether_files_differ(root: Path) -> None:
    (root / "miner" / "a.py").write_text("1\n")
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "one")
    git(root, "tag", "v9")
    commit = git(root, "rev-parse", "HEAD")[:8]
    assert code_version().partition("+")[2] == commit
    (root / "miner" / "a.py").write_text("2\n")
    assert code_version().partition("+")[2] == f"{commit}-dirty"


def test_without_git_it_is_the_packages(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / ".git").mkdir()
    monkeypatch.setenv("PATH", str(root))
    assert "+" not in code_version()
