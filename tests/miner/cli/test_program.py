"""What holds for all commands."""

import json
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from miner.cli import program
from miner.cli.completion import LINES
from tests.support.cli import run


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            yield from commands(child, (*path, name))


ALL = dict(commands(program))
HEAVY = ("torch", "bittensor", "pydantic", "numpy")


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_and_option_explains_itself(path: tuple[str, ...]) -> None:
    command = ALL[path]
    assert command.help
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name
            is_explained = parameter.show_default or parameter.required or parameter.is_flag
            assert is_explained or parameter.default is not None, f"{parameter.name} has no default and does not say so"
    result = run(*path, "--help")
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.process
def test_help_imports_nothing_heavy() -> None:
    code = f"""
import contextlib, io, json, sys
from miner.cli import program
loaded = {{}}
for path in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        program.main([*path, "--help"], prog_name="sn17-miner")
    loaded[" ".join(path)] = sorted(set({HEAVY}) & set(sys.modules))
print(json.dumps(loaded))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(list(ALL)), capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert set(loaded) == {" ".join(path) for path in ALL}
    assert not any(loaded.values()), loaded


@pytest.mark.process
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    """bash is left out: click asks the installed bash for its version."""
    line = run("completion", shell).stdout
    assert f"_SN17_MINER_COMPLETE={shell}_source sn17-miner" in line
    done = subprocess.run(
        [sys.executable, "-c", "from miner.cli import main; main()"],
        env={"_SN17_MINER_COMPLETE": f"{shell}_source", "PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"_SN17_MINER_COMPLETE={shell}_complete" in done.stdout


def test_the_shells() -> None:
    assert set(LINES) == {"bash", "zsh", "fish"}
    assert run("completion", "tcsh").exit_code == 2


def test_an_error_is_one_line_and_its_exit_code(tmp_path: object) -> None:
    result = run("phase", "--config", f"{tmp_path}/none.yaml", "list")
    assert result.exit_code == 2
    assert result.stderr == f"ERROR: the settings file {tmp_path}/none.yaml does not exist\n"
