"""Edits of the validator policy's file that change the lines of one entry, and no other byte."""

import re
import textwrap
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from miner.config.loader import check, load_yaml
from miner.config.policy import ListName, PolicyEntry, PolicyRules
from miner.errors import OperatorError
from miner.runtime import write_atomically

Item = Mapping[str, str | int | datetime] | str | int


@dataclass(frozen=True)
class PolicyFile:
    """A file of validator policy rules. Every method raises OperatorError if it cannot be read or edited."""

    path: Path

    def read(self) -> PolicyRules:
        """Return the rules."""
        return load_yaml(self.path, PolicyRules)

    def add(self, list_name: ListName, entry: PolicyEntry) -> bool:
        """Add an entry at the end of a list in place of the one with the same key. Return whether there was one."""
        index = self._find(list_name, entry.key)
        item = entry.model_dump(exclude_defaults=True)
        self._edit(lambda text: add_item(_without(text, list_name, index), list_name, item))
        return index is not None

    def remove(self, list_name: ListName, key: str) -> bool:
        """Remove the entry of a hotkey, coldkey or uid from a list. Return whether there was one."""
        index = self._find(list_name, key)
        if index is not None:
            self._edit(lambda text: _without(text, list_name, index))
        return index is not None

    def _find(self, list_name: ListName, key: str) -> int | None:
        return next((index for index, entry in enumerate(self.read().entries(list_name)) if entry.key == key), None)

    def _edit(self, edit: Callable[[str], str]) -> None:
        try:
            # Read as bytes, so that line ends stay as they are.
            text = edit(self.path.read_bytes().decode())
        except UneditableError as error:
            raise OperatorError(f"{self.path}: {error}") from None
        check(yaml.safe_load(text), PolicyRules, lambda _: self.path)
        write_atomically(self.path, text, sync=True)


def _without(text: str, list_name: ListName, index: int | None) -> str:
    return text if index is None else remove_item(text, list_name, index)


class UneditableError(ValueError):
    """The file is written in a way that cannot be edited safely."""


def add_item(text: str, list_name: str, item: Item) -> str:
    """Return a YAML file's text with an item at the end of a list. Raise UneditableError."""
    found = _ListInFile.find(text, list_name)
    line_end = "\r\n" if "\r\n" in text else "\n"
    if text and not text.endswith("\n"):
        text += line_end
    if found.key is None:
        if found.root and found.root.flow_style:
            raise found.refusal()
        at = _next_line(text, _end(found.root)) if found.root else len(text)
        return add_item(f"{text[:at]}{list_name}: []{line_end}{text[at:]}", list_name, item)
    if found.nodes and found.value.flow_style:
        at = _end(found.nodes[-1])
        added = f", {_dump(item, default_flow_style=True).strip()[1:-1]}"
    else:
        column, at = found.value.start_mark.column, _end(found.value)
        if not found.nodes:
            # A line below the key takes the place of what says that the list is empty.
            if "#" in text[found.colon : at]:
                raise found.refusal()
            text, column, at = text[: found.colon] + text[at:], found.key.start_mark.column + 2, found.colon
        at = _next_line(text, at)
        added = textwrap.indent(_dump(item), " " * column).replace("\n", line_end)
    return found.check(text[:at] + added + text[at:], [*found.items, item])


def remove_item(text: str, list_name: str, index: int) -> str:
    """Return a YAML file's text without an item of a list. Raise UneditableError or IndexError."""
    found = _ListInFile.find(text, list_name)
    rest, nodes = found.items[:], found.nodes
    del rest[index]
    start, end = nodes[index].start_mark.index, _end(nodes[index])
    if not found.value.flow_style:
        # Comments in front of an item stay, and its dash may be on a line of its own.
        before = _next_line(text, _end(nodes[index - 1]) if index else found.colon)
        dash = re.compile("^ *-", re.MULTILINE).search(text, before)
        assert dash is not None, "an item outside of brackets begins with a dash"
        start, end = dash.start(), _next_line(text, end)
    elif index + 1 < len(nodes):
        end = nodes[index + 1].start_mark.index
    elif index:
        start = _end(nodes[index - 1])
    text = text[:start] + text[end:]
    if not rest and not found.value.flow_style:
        text = f"{text[: found.colon]} []{text[found.colon :]}"
    return found.check(text, rest)


@dataclass(frozen=True)
class _ListInFile:
    """A list of a YAML file: the file's content, and the nodes of its root and of the list's key and value, if any.

    colon: the index in the text after the key's colon.
    """

    name: str
    content: Mapping[str, Any]
    root: Any
    key: Any
    value: Any
    colon: int

    @staticmethod
    def find(text: str, name: str) -> "_ListInFile":
        try:
            content, root = yaml.safe_load(text), yaml.compose(text, _Loader)
        except yaml.YAMLError as error:
            raise UneditableError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
        if content is None:
            return _ListInFile(name, {}, None, None, None, 0)
        if not isinstance(content, dict):
            raise UneditableError("is not a mapping of keys and values")
        if not isinstance(content.get(name), list | None):
            raise UneditableError(f"{name} is not a list")
        assert isinstance(root, yaml.MappingNode)
        key, value = next((pair for pair in root.value if pair[0].value == name), (None, None))
        colon = text.index(":", key.end_mark.index) + 1 if key is not None else 0
        return _ListInFile(name, content, root, key, value, colon)

    @property
    def items(self) -> list[Item]:
        return self.content.get(self.name) or []

    @property
    def nodes(self) -> list[yaml.Node]:
        """The items as nodes, which know their places in the text."""
        return self.value.value if isinstance(self.value, yaml.SequenceNode) else []

    def check(self, edited: str, items: list[Item]) -> str:
        """Return the edited text if the list has these items and nothing else has changed. Raise UneditableError."""
        with suppress(yaml.YAMLError):
            if yaml.safe_load(edited) == {**self.content, self.name: items}:
                return edited
        raise self.refusal()

    def refusal(self) -> UneditableError:
        return UneditableError(f"{self.name} is written in a way that cannot be edited safely: please edit it by hand")


class _Loader(yaml.SafeLoader):
    """A loader of nodes; that of an alias has its own place in the text, not its anchor's."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if not self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        event = self.get_event()  # type: ignore[no-untyped-call]
        return yaml.ScalarNode("alias", event.anchor, event.start_mark, event.end_mark)


def _end(node: yaml.Node) -> int:
    """Return the index after a node's last character; PyYAML counts comments and blank lines behind blocks to them."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return node.end_mark.index


def _next_line(text: str, index: int) -> int:
    """Return the first beginning of a line from an index on, or the length of the text."""
    return text.find("\n", index - 1) + 1 or len(text)


def _dump(item: Item, **style: Any) -> str:
    """Return a list of one item as YAML, on as few lines as its style allows."""
    return str(yaml.safe_dump([item], sort_keys=False, allow_unicode=True, width=2**31, **style))
