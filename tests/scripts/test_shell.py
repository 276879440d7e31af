"""The shell scripts on machines that lack something."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

TOOLS = ("bash", "dirname", "cat", "sha256sum", "cut", "head", "grep", "mv")


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A checkout without .venv beside a bin folder with the few tools that every system has."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__", "*.md"))
    for name in ("setup.py", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    return tmp_path


def run(machine: Path, script: str, *arguments: str) -> tuple[int, str]:
    command = [str(machine / "bin" / "bash"), str(machine / "scripts" / script), *arguments]
    done = subprocess.run(command, env={"PATH": str(machine / "bin")}, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def provide(machine: Path, name: str, body: str) -> None:
    path = machine / "bin" / name
    path.write_text(f"#!{machine}/bin/bash\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("script", ["demo.sh", "test.sh", "setup.sh"])
def test_what_is_missing_is_named_with_its_apt_line(bare_machine: Path, script: str) -> None:
    assert run(bare_machine, script) == (2, "git is missing: sudo apt-get install -y git\n")
    provide(bare_machine, "git", "exit 0")
    code, message = run(bare_machine, script)
    assert (code, message.startswith("Python 3.11")) == (2, True)
    assert "apt-get install -y python3 python3-venv" in message
    provide(bare_machine, "python3", 'case "$*" in *ensurepip*) exit 1;; *) exit 0;; esac')
    code, message = run(bare_machine, script)
    assert (code, "apt-get install -y python3-venv" in message) == (2, True)


def test_unknown_option(bare_machine: Path) -> None:
    code, message = run(bare_machine, "setup.sh", "--cuda")
    assert (code, "--cuda" in message, "setup.sh [--gpu]" in message) == (2, True, True)
