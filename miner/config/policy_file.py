"""Edits of the validator policy's file that keep its comments, line ends and order.

ruamel.yaml writes the file anew, so that spaces inside brackets and the indentation of its lists become uniform.
"""

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from ruamel.yaml.tokens import CommentToken

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
        index = _find(self.read().entries(list_name), entry.key)
        item = entry.model_dump(exclude_defaults=True)
        self._edit(lambda text: add_item(_without(text, list_name, index), list_name, item))
        return index is not None

    def remove(self, list_name: ListName, key: str) -> bool:
        """Remove the entry of a hotkey, coldkey or uid from a list. Return whether there was one."""
        index = _find(self.read().entries(list_name), key)
        if index is not None:
            self._edit(lambda text: _without(text, list_name, index))
        return index is not None

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


def _find(entries: tuple[PolicyEntry, ...], key: str) -> int | None:
    return next((index for index, entry in enumerate(entries) if entry.key == key), None)


class UneditableError(ValueError):
    """The file is written in a way that cannot be edited safely."""


def add_item(text: str, list_name: str, item: Item) -> str:
    """Return a YAML file's text with an item at the end of a list. Raise UneditableError."""
    document = _Document(text, list_name)
    document.append(item)
    return document.checked([*document.items, item])


def remove_item(text: str, list_name: str, index: int) -> str:
    """Return a YAML file's text without an item of a list. Raise UneditableError or IndexError."""
    document = _Document(text, list_name)
    rest = [item for number, item in enumerate(document.items) if number != index]
    if len(rest) == len(document.items):
        raise IndexError(f"{list_name} has no item {index}")
    document.remove(index)
    return document.checked(rest)


class _Document:
    """A YAML file's text as ruamel.yaml holds it, with one of its lists to edit.

    ruamel.yaml keeps a comment in the `ca` (comment attributes) of the collection whose item precedes it. The token of
    an item holds what follows it on its line and, after that line's end, all lines until the next item. These further
    lines, here called the tail, have to be moved when an item is put behind its predecessor or taken out.
    """

    def __init__(self, text: str, list_name: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._line_end = "\r\n" if "\r\n" in text else "\n"
        self._name = list_name
        # Comments of lines that are removed, and so may be missing in the end.
        self._removed: Counter[str] = Counter()
        try:
            self._content = yaml.safe_load(self._text)
            self._yaml = YAML()
            self._yaml.preserve_quotes = True
            self._yaml.width = 2**31
            self._yaml.explicit_start = self._text.startswith("---") or "\n---\n" in self._text
            root = self._yaml.load(self._text)
        except (yaml.YAMLError, YAMLError) as error:
            raise UneditableError(f"cannot be read as YAML: {' '.join(str(error).split())}") from None
        self._root: CommentedMap = CommentedMap() if root is None else root
        if not isinstance(self._root, CommentedMap):
            raise UneditableError("is not a mapping of keys and values")
        # A file of comments alone has no mapping that could hold them.
        self._head = self._text if root is None else ""
        self._list: CommentedSeq = self._root.get(list_name) or CommentedSeq()
        if not isinstance(self._list, CommentedSeq):
            raise UneditableError(f"{list_name} is not a list")
        self.items: list[Item] = (self._content or {}).get(list_name) or []
        self._set_indent()

    def append(self, item: Item) -> None:
        """Put an item at the end of the list, which gets a line for each item if it was in brackets."""
        tail = self._cut_tail(self._root, self._name) if self._name in self._root else ""
        self._root[self._name] = self._list
        if self._list.fa.flow_style() or not self._list:
            self._list.fa.set_block_style()
            self._move_comment(len(f"{self._name}:  "))
        self._list.append(_to_yaml(item))
        self._add_tail(*self._leaf(self._root, self._name)[-1], tail)

    def remove(self, index: int) -> None:
        """Remove an item; comments between it and the next stay, behind its predecessor."""
        path = self._leaf(self._list, index)
        first, last = (_line(*path[0]), _line(*path[-1]))
        self._removed += _comments("\n".join(self._text.split("\n")[first : last + 1]))
        tail = self._cut_tail(self._list, index)
        del self._list[index]
        if index and not self._list.fa.flow_style():
            self._add_tail(*self._leaf(self._list, index - 1)[-1], tail)
        elif tail and (slots := self._root.ca.items.get(self._name)) and slots[3]:
            # Comments between the list's key and its first item are kept apart.
            slots[3].append(CommentToken(tail, CommentMark(0)))
        else:
            self._add_tail(self._root, self._name, tail)
        if not self._list:
            self._write_as_empty()

    def checked(self, expected: list[Item]) -> str:
        """Return the text, if its list has the expected items and nothing else has changed. Raise UneditableError."""
        stream = io.StringIO()
        if self._head and not self._head.endswith("\n"):
            self._head += "\n"
        stream.write(self._head)
        self._yaml.dump(self._root, stream)
        after = stream.getvalue()
        content = {**(self._content or {}), self._name: [dict(i) if isinstance(i, Mapping) else i for i in expected]}
        lost = _comments(self._text) - _comments(after) - self._removed
        try:
            if yaml.safe_load(after) == content and not lost:
                return after.replace("\n", self._line_end)
        except yaml.YAMLError:
            pass
        raise UneditableError(f"{self._name} is written in a way that cannot be edited safely: please edit it by hand")

    def _set_indent(self) -> None:
        """Set the indentation that the file's lists have, above all the edited one."""
        self._yaml.indent(mapping=2, sequence=4, offset=2)
        for name in (self._name, *self._root):
            items = self._root.get(name)
            if isinstance(items, CommentedSeq) and items and not items.fa.flow_style():
                dash_line, dash = self._root.lc.value(name)
                line, column = items.lc.item(0)
                self._yaml.indent(mapping=2, sequence=column if line == dash_line else dash + 2, offset=dash)
                return

    @staticmethod
    def _leaf(node: Any, key: Any) -> list[tuple[Any, Any]]:
        """Return the path to the last line of a value: collections with the key of their last item."""
        path = [(node, key)]
        while isinstance(value := node[key], CommentedMap | CommentedSeq) and value and not value.fa.flow_style():
            node, key = value, _last_key(value)
            path.append((node, key))
        return path

    def _cut_tail(self, node: Any, key: Any) -> str:
        """Take the lines that follow a value out of the comments, and return them."""
        path = self._leaf(node, key)
        holder, last_key = path[-1]
        slots = holder.ca.items.get(last_key)
        token = slots[_slot(holder)] if slots else None
        tail = ""
        if token is not None:
            # What follows a block scalar begins on a line of its own.
            at_line_end, _, tail = token.value.partition("\n")
            if token.column == 0 and at_line_end:
                at_line_end, tail = "", token.value
            if at_line_end:
                token.value = at_line_end + "\n"
            else:
                slots[_slot(holder)] = None
        for collection, last in path:
            if collection.ca.end and last == _last_key(collection):
                tail += "".join(end.value for end in collection.ca.end)
                collection.ca.end.clear()
        return tail

    def _write_as_empty(self) -> None:
        """Write the list, which has lost its last item, as [], followed by the comments that were inside it."""
        self._root[self._name] = empty = CommentedSeq()
        empty.fa.set_flow_style()
        slots = self._root.ca.items.get(self._name)
        if slots:
            tail = "".join(token.value for token in slots[3] or ()) + self._cut_tail(self._root, self._name)
            slots[3] = None
            self._add_tail(self._root, self._name, tail)
        self._move_comment(len(f"{self._name}: []  "))

    def _move_comment(self, column: int) -> None:
        """Put the comment on the line of the list's key, which has become longer or shorter, into this column."""
        slots = self._root.ca.items.get(self._name)
        if slots and slots[2] is not None:
            slots[2].column = column

    @staticmethod
    def _add_tail(node: Any, key: Any, tail: str) -> None:
        """Put lines behind a value, after those that follow it already."""
        if not tail:
            return
        slots = node.ca.items.setdefault(key, [None, None, None, None])
        token = slots[_slot(node)]
        if token is None:
            slots[_slot(node)] = CommentToken("\n" + tail, CommentMark(0))
        else:
            token.value += tail


def _last_key(node: CommentedMap | CommentedSeq) -> Any:
    return list(node)[-1] if isinstance(node, CommentedMap) else len(node) - 1


def _slot(node: CommentedMap | CommentedSeq) -> int:
    """Return which of a value's comments is the one behind it."""
    return 2 if isinstance(node, CommentedMap) else 0


def _line(node: CommentedMap | CommentedSeq, key: Any) -> int:
    return int((node.lc.value(key) if isinstance(node, CommentedMap) else node.lc.item(key))[0])


def _comments(text: str) -> Counter[str]:
    """Count what follows a # on each line. A # inside a quoted text counts, too, which does no harm."""
    return Counter(line.partition("#")[2].strip() for line in text.split("\n") if "#" in line)


def _to_yaml(item: Item) -> Any:
    if not isinstance(item, Mapping):
        return item
    # In quotes, since texts such as `no` would be read as something else by the YAML 1.1 that the miner reads.
    return CommentedMap(
        (key, DoubleQuotedScalarString(value) if key == "reason" and isinstance(value, str) else value)
        for key, value in item.items()
    )
