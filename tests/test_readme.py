"""The commands that README.md shows exist, with the options that it gives them."""

import re
import shlex

import click
import pytest

from miner.cli import program
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_commands() -> list[str]:
    """The lines of code blocks, and what stands between backticks, that begin with the program."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    lines += [" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)]
    return list(dict.fromkeys(line for line in lines if line.startswith("sn17-miner ")))


@pytest.mark.parametrize("line", shown_commands())
def test_a_command_and_its_options_exist(line: str) -> None:
    # What is optional is given, too.
    words = shlex.split(line.replace("[", "").replace("]", ""))[1:]
    if words == ["COMMAND", "--help"]:
        return
    context = click.Context(program, info_name="sn17-miner")
    command: click.Command = program
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command = command.commands[words.pop(0)]
        context = click.Context(command, context)
    assert not isinstance(command, click.Group) or words in ([], ["--help"]), line
    # Raises an error for an option that is not known, or lacks its value.
    command.make_parser(context).parse_args(words)


def test_links_lead_to_what_is_there() -> None:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", README, flags=re.DOTALL), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert {link.removeprefix("#") for link in links if link.startswith("#")} <= anchors
    files = [link for link in links if not re.match(r"#|https?:", link)]
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_all_of_them_are_found() -> None:
    assert len(shown_commands()) > 15


def test_options_that_do_not_exist_are_noticed() -> None:
    with pytest.raises(click.NoSuchOption):
        test_a_command_and_its_options_exist("sn17-miner report --none 3")
    with pytest.raises(AssertionError):
        test_a_command_and_its_options_exist("sn17-miner phase none")
