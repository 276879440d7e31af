from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from miner.config.loader import shipped_config
from miner.config.policy import PolicyEntry
from miner.config.policy_file import PolicyFile, UneditableError, add_item, remove_item
from miner.errors import OperatorError
from tests.support.addresses import address

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
    added = '- hotkey: h\n  reason: "why: not # a comment"\n  until: 2026-01-31 12:00:00+00:00\n'
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
        ("deny: [] # none\n# of a\n\na: 1\n", "deny:  # none\n  - z\n# of a\n\na: 1\n"),
        ("deny:\n# of a\n\na: 1\n", "deny:\n  - z\n# of a\n\na: 1\n"),
        ("deny:\na: 1\n", "deny:\n  - z\na: 1\n"),
        ("deny: null\n", "deny:\n  - z\n"),
        ("deny: [x, y]", "deny:\n  - x\n  - y\n  - z\n"),
        ("deny: [\n  x,\n  y]  # c\na: 1\n", "deny:  # c\n  - x\n  - y\n  - z\na: 1\n"),
        ("deny:\n    - x", "deny:\n    - x\n    - z\n"),
        ("deny:\n-   x\n", "deny:\n-   x\n-   z\n"),
        ("deny:\n  - x\n    # inside\n\n  # below\na: 1\n", "deny:\n  - x\n  - z\n    # inside\n\n  # below\na: 1\n"),
        ("deny:\r\n- x\r\na: 1\r\n", "deny:\r\n- x\r\n- z\r\na: 1\r\n"),
        ("deny:\n- |\n  x\n  y\na: 1\n", "deny:\n- |\n  x\n  y\n- z\na: 1\n"),
        ("deny:\n- |\n  x\n# of a\na: 1\n", "deny:\n- |\n  x\n- z\n# of a\na: 1\n"),
        (
            "---\ndeny:\n- x\na: yes\nb: 0x10\nc: 'q'\nd: 1e3\n",
            "---\ndeny:\n- x\n- z\na: yes\nb: 0x10\nc: 'q'\nd: 1e3\n",
        ),
        ("deny:\n- &i y\n- *i\n", "deny:\n- &i y\n- *i\n- z\n"),
        ("{a: 1}", "{a: 1, deny: [z]}\n"),
        ("a: 1\n...\n", "a: 1\ndeny:\n  - z\n"),
    ],
)
def test_ways_to_write_a_list(text: str, expected: str) -> None:
    assert add_item(text, "deny", "z") == expected


def test_removing_from_a_list_in_brackets() -> None:
    text = "deny: [x, {hotkey: y, until: 2026-01-31}]  # c\n"
    # The comment stays in its column.
    assert remove_item(text, "deny", 1) == "deny: [x]".ljust(text.index("#")) + "# c\n"
    assert yaml.safe_load(remove_item(text, "deny", 0))["deny"] == yaml.safe_load(text)["deny"][1:]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("deny:\n# of x\n- x\n# of a\na: 1\n", "deny: []\n# of x\n# of a\na: 1\n"),
        ("deny:\n# of x\n- x\n# of y\n- y\n", "deny:\n# of x\n# of y\n- y\n"),
        ("deny:  # whom\n\n# of x\n- x\n# of y\n- y\n", "deny:  # whom\n\n# of x\n# of y\n- y\n"),
        ("deny:\n  # of x\n  - x\n", "deny: []\n# of x\n"),
        ("deny:  # whom\n- x  # why\n# of y\n- y\n", "deny:  # whom\n# of y\n- y\n"),
        ("deny:\r\n- x\r\n\r\na: 1\r\n", "deny: []\r\n\r\na: 1\r\n"),
    ],
)
def test_comments_around_a_removed_item_stay(text: str, expected: str) -> None:
    assert remove_item(text, "deny", 0) == expected


def test_a_dash_on_a_line_of_its_own() -> None:
    assert remove_item("deny:\n-\n  hotkey: x\n- y\n", "deny", 0) == "deny:\n- y\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("deny: [", "cannot be read as YAML"),
        ("deny: []\ndeny: []\n", "cannot be read as YAML"),
        ("- a\n", "not a mapping"),
        ("deny: 5\n", "deny is not a list"),
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


H = address("h")


@pytest.mark.parametrize("reason", ["no", "1:30", "0x10", "# x", "a: b", "'", "~", "", "été \U0001f600"])
def test_any_reason_is_read_back(tmp_path: Path, reason: str) -> None:
    file = PolicyFile(tmp_path / "blacklist.yaml")
    file.path.write_text("deny_hotkeys: []\n")
    entry = PolicyEntry(hotkey=H, reason=reason, until=datetime(2030, 1, 1, tzinfo=UTC))
    assert not file.add("deny_hotkeys", entry)
    assert file.read().deny_hotkeys == (entry,)
    assert file.add("deny_hotkeys", PolicyEntry(hotkey=H))
    assert file.read().deny_hotkeys == (PolicyEntry(hotkey=H),)
    assert file.remove("deny_hotkeys", H)
    assert not file.remove("deny_hotkeys", H)
    assert file.path.read_text() == "deny_hotkeys: []\n"


def test_a_file_that_cannot_be_edited_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "blacklist.yaml"
    path.write_text(f"allow: &x [{H}]\ndeny_hotkeys: *x\n")
    with pytest.raises(OperatorError, match=f"{path}: deny_hotkeys is written in a way .* by hand"):
        PolicyFile(path).add("deny_hotkeys", PolicyEntry(hotkey=address("i")))
    assert path.read_text() == f"allow: &x [{H}]\ndeny_hotkeys: *x\n"
