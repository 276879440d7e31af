"""Add and remove items of the lists in a YAML file's text, and leave everything else as it is, comments included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Item = Mapping[str, Any] | str | int


class UneditableError(ValueError):
    """The file is written in a way that this cannot change safely."""


def add_item(text: str, key: str, item: Item) -> str:
    """The text with `item` at the end of the list of that key. Raises UneditableError."""
    node = _value(text, key)
    items = _items(text, key)
    if node is None:
        start = text if text.endswith("\n") or not text else text + _eol(text)
        changed = f"{start}{key}:{_eol(text)}{_block([item], 2, _eol(text))}"
    elif isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        end = _line_end(text, _end(node.value[-1]))
        head = text[:end] if text[:end].endswith("\n") else text[:end] + _eol(text)
        changed = head + _block([item], node.start_mark.column, _eol(text)) + text[end:]
    else:
        # An empty list, or one in brackets: it becomes one with a line for each item.
        stop = node.end_mark.index
        end = _line_end(text, stop)
        head = text[: node.start_mark.index].rstrip(" ") + text[stop:end]
        head = head if head.endswith("\n") else head + _eol(text)
        changed = head + _block([*items, item], 2, _eol(text)) + text[end:]
    return _checked(text, changed, key, [*items, item])


def remove_item(text: str, key: str, number: int) -> str:
    """The text without the item of that number in the list of that key. Raises UneditableError, IndexError."""
    node = _value(text, key)
    items = _items(text, key)
    rest = [*items[:number], *items[number + 1 :]]
    if len(rest) == len(items) or not isinstance(node, yaml.SequenceNode):
        raise IndexError(f"{key} has no item {number}")
    if node.flow_style:
        left = yaml.safe_dump(rest, default_flow_style=True, width=float("inf"), allow_unicode=True).strip()
        changed = text[: node.start_mark.index] + left + text[node.end_mark.index :]
    else:
        start = _dash(text, node.value[number].start_mark.index, node.start_mark.column)
        end = _line_end(text, _end(node.value[number]))
        changed = text[:start] + text[end:]
        if not rest:
            colon = changed.index(":", _key_end(text, key)) + 1
            changed = f"{changed[:colon]} []{changed[colon:]}"
    return _checked(text, changed, key, rest)


def _root(text: str) -> yaml.MappingNode:
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UneditableError(f"not readable as YAML: {' '.join(str(error).split())}") from None
    if root is None:
        return yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(root, yaml.MappingNode):
        raise UneditableError("not a mapping of keys and values")
    return root


def _key_end(text: str, key: str) -> int:
    return next(int(node.end_mark.index) for node, _ in _root(text).value if node.value == key)


def _value(text: str, key: str) -> yaml.Node | None:
    return next((value for node, value in _root(text).value if node.value == key), None)


def _items(text: str, key: str) -> list[Any]:
    content = yaml.safe_load(text) if text.strip() else None
    items = (content or {}).get(key) or []
    if not isinstance(items, list):
        raise UneditableError(f"{key} is not a list")
    return items


def _end(node: yaml.Node) -> int:
    # The end of a block collection is only known to be before the next token, which is too far.
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return _end(node.value[-1])
    return int(node.end_mark.index)


def _line_end(text: str, index: int) -> int:
    if index and text[index - 1] == "\n":
        return index
    newline = text.find("\n", index)
    return len(text) if newline < 0 else newline + 1


def _dash(text: str, index: int, column: int) -> int:
    """The start of the line with the dash of the item that begins at `index`."""
    start = text.rfind("\n", 0, index) + 1
    while text[start + column : start + column + 1] != "-":
        start = text.rfind("\n", 0, max(start - 1, 0)) + 1
    return start


def _eol(text: str) -> str:
    return "\r\n" if "\r\n" in text else "\n"


def _block(items: Sequence[Item], column: int, eol: str) -> str:
    dumped = yaml.safe_dump(
        [dict(item) if isinstance(item, Mapping) else item for item in items],
        allow_unicode=True,
        sort_keys=False,
        width=float("inf"),
    )
    return "".join(f"{' ' * column}{line}{eol}" for line in dumped.splitlines())


def _checked(before: str, after: str, key: str, items: Sequence[Item]) -> str:
    expected = (yaml.safe_load(before) if before.strip() else None) or {}
    expected = {**expected, key: [dict(item) if isinstance(item, Mapping) else item for item in items]}
    try:
        found = yaml.safe_load(after)
    except yaml.YAMLError:
        found = None
    if found != expected:
        raise UneditableError(f"{key} is written in a way that cannot be edited safely: please edit it by hand")
    return after
