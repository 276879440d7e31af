"""What holds for all commands."""

import json
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
import torch

from miner.cli import program
from miner.cli.completion import LINES
from miner.cli.help import COMMON_GROUPS, HelpfulCommand
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


EXAMPLES = [(path, example) for path, command in ALL.items() for example in getattr(command, "examples", ())]


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_an_example_of_the_help_is_a_command_with_its_options(path: tuple[str, ...], example: str) -> None:
    words = shlex.split(example.partition(" < ")[0])[1:]
    assert tuple(words[: len(path)]) == path
    context, command = click.Context(program, info_name="sn17-miner"), program
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
        context = click.Context(command, context)
    command.make_parser(context).parse_args(words)


def test_options_stand_in_groups_and_each_once() -> None:
    for path, command in ALL.items():
        if not isinstance(command, HelpfulCommand):
            continue
        names = {parameter.name for parameter in command.params}
        grouped = [
            name for title, group in command.option_groups.items() for name in group if title not in COMMON_GROUPS
        ]
        assert set(grouped) <= names, path
        assert len(set(grouped)) == len(grouped), path
    shown = run("run", "--help").stdout
    titles = re.findall(r"^(\w[\w ]+):$", shown, re.MULTILINE)
    assert titles == ["Wallet and chain", "Axon", "Work", "Options", "Files of the miner", "Examples"]
    assert shown.index("Axon:") < shown.index("--axon.port INTEGER") < shown.index("Work:")
    for parameter in ALL["run",].params:
        assert len(re.findall(rf"^  {re.escape(parameter.opts[0])}\b", shown, re.MULTILINE)) == 1
    assert "  sn17-miner run --wallet.name miner --phase test3 --axon.port 8091\n" in shown


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("genrate", "a duck"), "Did you mean 'generate'?"),
        (("phase", "aply", "test3"), "Did you mean 'apply'?"),
        (("report", "--phse", "a"), "'--phase'"),
        (("generate", "a duck", "--phase", "phsae3"), "there is no phase 'phsae3' (did you mean phase3"),
    ],
)
def test_what_is_mistyped_is_suggested(arguments: tuple[str, ...], suggestion: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert suggestion in result.stderr


def test_versions() -> None:
    first, second, third = run("--version").stdout.splitlines()
    assert re.fullmatch(r"sn17-miner, version \S+", first)
    assert second.startswith(f"Python {platform.python_version()}, ")
    assert third.startswith(f"torch {torch.__version__}, ")
    assert ("without CUDA" in third) is (torch.version.cuda is None)


def test_versions_where_torch_does_not_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert run("--version").stdout.splitlines()[2].startswith("torch cannot be imported: ")


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
