"""Every promise of SECURITY.md names tests, and they exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.support.paths import ROOT

SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAME = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the table below a heading."""
    section = SECURITY.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| ---")]


@cache
def named_in(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, functions)}


@pytest.mark.parametrize(("heading", "columns", "least"), [("Faults", 5, 30), ("Threats", 3, 20)])
def test_each_row_is_whole_and_names_tests_that_exist(heading: str, columns: int, least: int) -> None:
    head, *promises = rows(heading)
    assert head[-1] == "shown by"
    assert len(promises) >= least
    for row in promises:
        assert len(row) == columns, row
        assert all(row), row
        named = NAME.findall(row[-1])
        # Nothing else stands there.
        assert named, row
        assert NAME.sub("", row[-1]).replace("<br>", "") == "", row
        for file, test in named:
            assert (ROOT / "tests" / file).is_file(), file
            assert test in named_in(ROOT / "tests" / file), f"{file}::{test}"


def test_no_promise_is_made_twice() -> None:
    for heading in ("Faults", "Threats"):
        first = [row[0] for row in rows(heading)]
        assert len(first) == len(set(first))


def test_the_files_that_it_links_exist() -> None:
    for target in re.findall(r"\]\(([\w/.]+)\)", SECURITY):
        assert (ROOT / target).is_file(), target


def test_the_readme_leads_there() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
