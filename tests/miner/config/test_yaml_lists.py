from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from miner.config.loader import shipped_config
from miner.config.yaml_lists import UneditableError, add_item, remove_item

ENTRY = {"hotkey": "h", "reason": "why: not # a comment", "until": datetime(2026, 1, 31, 12, tzinfo=UTC)}
BLOCK = """# top
before: 1  # one

# of the list
deny:  # whom
- a  # first
# of the second
- hotkey: b
  reason: "two"   # words

- {hotkey: c}

# of what follows
after: [x]  # last
"""


def comments(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


def test_adding_to_a_block_list_changes_nothing_else() -> None:
    changed = add_item(BLOCK, "deny", ENTRY)
    assert yaml.safe_load(changed)["deny"][-1] == ENTRY
    added = "- hotkey: h\n  reason: 'why: not # a comment'\n  until: 2026-01-31 12:00:00+00:00\n"
    assert changed == BLOCK.replace("- {hotkey: c}\n", "- {hotkey: c}\n" + added)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_removing_from_a_block_list(number: int) -> None:
    changed = remove_item(BLOCK, "deny", number)
    kept = yaml.safe_load(BLOCK)["deny"]
    del kept[number]
    assert yaml.safe_load(changed)["deny"] == kept
    lost = {0: [" first"], 1: [" words"], 2: []}[number]
    assert comments(changed) == [comment for comment in comments(BLOCK) if comment not in lost]


def test_removing_the_last_item_leaves_an_empty_list() -> None:
    text = BLOCK
    for _ in range(3):
        text = remove_item(text, "deny", 0)
    assert yaml.safe_load(text) == {"before": 1, "deny": [], "after": ["x"]}
    assert "deny: []  # whom" in text
    assert yaml.safe_load(add_item(text, "deny", "z"))["deny"] == ["z"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "deny:\n  - z\n"),
        ("a: 1", "a: 1\ndeny:\n  - z\n"),
        ("# only a comment\n", "# only a comment\ndeny:\n  - z\n"),
        ("deny: []  # none\na: 1\n", "deny:  # none\n  - z\na: 1\n"),
        ("deny:\na: 1\n", "deny:\n  - z\na: 1\n"),
        ("deny: null\n", "deny:\n  - z\n"),
        ("deny: [x, y]", "deny:\n  - x\n  - y\n  - z\n"),
        ("deny: [\n  x,\n  y]  # c\na: 1\n", "deny:  # c\n  - x\n  - y\n  - z\na: 1\n"),
        ("deny:\n    - x", "deny:\n    - x\n    - z\n"),
        ("deny:\r\n- x\r\na: 1\r\n", "deny:\r\n- x\r\n- z\r\na: 1\r\n"),
        ("deny:\n- |\n  x\n  y\na: 1\n", "deny:\n- |\n  x\n  y\n- z\na: 1\n"),
    ],
)
def test_ways_to_write_a_list(text: str, expected: str) -> None:
    assert add_item(text, "deny", "z") == expected


def test_removing_from_a_list_in_brackets() -> None:
    text = "deny: [x, {hotkey: y, until: 2026-01-31}]  # c\n"
    assert remove_item(text, "deny", 1) == "deny: [x]  # c\n"
    assert yaml.safe_load(remove_item(text, "deny", 0))["deny"] == yaml.safe_load(text)["deny"][1:]


def test_a_dash_on_a_line_of_its_own() -> None:
    assert remove_item("deny:\n-\n  hotkey: x\n- y\n", "deny", 0) == "deny:\n- y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deny: [", "not readable as YAML"),
        ("- a\n", "not a mapping"),
        ("deny: 5\n", "deny is not a list"),
        ("{a: 1}", "by hand"),
        ("a: 1\n...\n", "by hand"),
        ("a: &x [1]\ndeny: *x\n", "by hand"),
    ],
)
def test_what_cannot_be_edited_is_left_alone(text: str, message: str) -> None:
    with pytest.raises(UneditableError, match=message):
        add_item(text, "deny", "z")


@pytest.mark.parametrize("number", [2, 99])
def test_there_must_be_something_to_remove(number: int) -> None:
    for text in ("deny: [x, y]", "deny:\n- x\n- y\n", "deny:", ""):
        with pytest.raises(IndexError):
            remove_item(text, "deny", number)


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Cn"]), max_size=40)
keys = st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZ", min_size=3, max_size=12).map("k".__add__)
items = keys | st.fixed_dictionaries(
    {"hotkey": keys, "reason": words}, optional={"until": st.datetimes(timezones=st.just(UTC))}
)


@given(st.lists(items, max_size=5), st.lists(st.integers(0, 4), max_size=4), st.booleans())
def test_any_sequence_of_edits_is_what_it_says(added: list[Any], removed: list[int], shipped: bool) -> None:
    text = (shipped_config() / "blacklist.yaml").read_text(encoding="utf-8") if shipped else BLOCK
    key = "deny_hotkeys" if shipped else "deny"
    expected, remarks = yaml.safe_load(text)[key], set(comments(text)) - {" first", " words"}
    for item in added:
        text = add_item(text, key, item)
        expected.append(item)
    for number in removed:
        if number < len(expected):
            text = remove_item(text, key, number)
            del expected[number]
    assert yaml.safe_load(text)[key] == expected
    assert remarks <= set(comments(text))
