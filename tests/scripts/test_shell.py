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


@pytest.fixture
def made_machine(bare_machine: Path) -> Path:
    """The same with a .venv whose Python notes what it is asked to do, and has nothing installed yet."""
    (bare_machine / ".venv" / "bin").mkdir(parents=True)
    provide_python(bare_machine, "exit 0")
    return bare_machine


def provide_python(machine: Path, body: str) -> None:
    path = machine / ".venv" / "bin" / "python"
    path.write_text(
        f'#!{machine}/bin/bash\necho "$*" >>{machine}/calls\n'
        f'case "$*" in *"pip show -q"*) exit 1;; *"import sys"*) exit 0;; esac\n{body}\n'
    )
    path.chmod(0o755)


def installations(machine: Path) -> list[str]:
    """The arguments of `pip install`, without those of how it prints, paths relative to the requirement files."""
    folder = f"{machine / 'scripts' / 'requirements'}/"
    calls = [line.partition("pip install ")[2] for line in (machine / "calls").read_text().splitlines()]
    quiet = "--quiet --disable-pip-version-check "
    return [call.removeprefix(quiet).replace(folder, "") for call in calls if call]


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("setup.sh", [], ["--no-deps -r torch-cpu.txt", "-r cpu.txt"]),
        ("setup.sh", ["--gpu"], ["-r gpu.txt"]),
        ("demo.sh", [], ["--no-deps -r torch-cpu.txt", "-r cpu.txt"]),
        ("test.sh", [], ["--no-deps -r torch-cpu.txt", "-r cpu.txt -r dev.txt"]),
    ],
)
def test_all_that_is_installed_is_checked_by_hash(
    made_machine: Path, script: str, arguments: list[str], expected: list[str]
) -> None:
    run(made_machine, script, *arguments)
    package = f"--no-deps --no-build-isolation -e {made_machine}"
    assert installations(made_machine) == [*(f"--require-hashes {files}" for files in expected), package]


@pytest.mark.parametrize(("version", "removed"), [("2.13.0+cpu", True), ("2.13.0", False)])
def test_a_build_for_cpus_makes_room_for_the_one_for_gpus(made_machine: Path, version: str, removed: bool) -> None:
    provide_python(made_machine, f'case "$*" in *"show torch"*) echo "Version: {version}";; esac')
    run(made_machine, "setup.sh", "--gpu")
    calls = (made_machine / "calls").read_text()
    assert ("pip uninstall --quiet --yes torch\n" in calls) == removed
    assert installations(made_machine)[0] == "--require-hashes -r gpu.txt"


def test_without_a_build_for_cpus_torch_comes_from_the_default_index(made_machine: Path) -> None:
    provide_python(made_machine, 'case "$*" in *torch-cpu.txt*) exit 1;; esac')
    run(made_machine, "setup.sh")
    assert installations(made_machine)[1] == "--require-hashes -r cpu-default-index.txt"


def test_a_package_of_another_hash_ends_the_installation(made_machine: Path) -> None:
    refuse = """case "$*" in *"-r "*) echo 'THESE PACKAGES DO NOT MATCH THE HASHES' >&2; exit 1;; esac"""
    provide_python(made_machine, refuse)
    code, message = run(made_machine, "setup.sh")
    assert (code, message) == (1, "THESE PACKAGES DO NOT MATCH THE HASHES\n")
    assert installations(made_machine)[-1] == "--require-hashes -r cpu-default-index.txt"
    assert not (made_machine / ".venv" / "installed").exists()
