"""Read YAML files into frozen, checked values; errors name the file, the key and what is allowed."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from miner.errors import OperatorError
from miner.words import did_you_mean

AnySection = TypeVar("AnySection", bound=BaseModel)
# A place in a file: keys, and indices of list items.
Location = tuple[int | str, ...]


class Section(BaseModel):
    """A part of a file: its keys as typed values, no others."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def shipped_config() -> Path:
    """Return the config folder of the installed package or, in a checkout, of the repository."""
    installed = Path(__file__).parent / "shipped"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "config"


def phase_folders(config: Path) -> list[Path]:
    """Return the folders that are searched for phases: beside the settings file, then the shipped one."""
    return list(dict.fromkeys([config.parent / "phases", shipped_config() / "phases"]))


def phase_names(config: Path) -> list[str]:
    """Return the names of all phases, readable or not."""
    return sorted({file.stem for folder in phase_folders(config) for file in folder.glob("*.yaml")})


def load_yaml(path: Path, section: type[AnySection]) -> AnySection:
    """Read a file and check it. Raise OperatorError naming the file, the key and what is allowed."""
    return check(read_mapping(path, section), section, lambda _: path)


class DuplicateKeyError(yaml.YAMLError):
    """A mapping of a file has the same key twice, of which YAML and JSON readers silently drop the first."""


def parse_yaml(text: str) -> Any:
    """Return the content of one YAML document. Raise yaml.YAMLError, also for keys that occur twice, or ValueError."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _refuse_duplicates(node)
        return loader.construct_document(node)
    except (LookupError, AttributeError, TypeError, OverflowError) as error:
        # From values that are not of the type that a tag of the file says, such as `!!bool 3`.
        raise yaml.YAMLError(f"a value does not fit its tag: {type(error).__name__}: {error}") from None
    finally:
        loader.dispose()


def parse_json_or_yaml(text: str) -> Any:
    """Return the content of a JSON document or else of a YAML document; raise as `parse_yaml` does."""
    repeated: list[str] = []

    def to_mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            repeated.extend(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return mapping

    try:
        content = json.loads(text, object_pairs_hook=to_mapping)
    except ValueError:
        return parse_yaml(text)
    if repeated:
        # As YAML, which JSON is but for its tabs, to find the lines.
        parse_yaml(text.replace("\t", " "))
        raise DuplicateKeyError(f"key {repeated[0]!r} occurs twice in one mapping: leave one of the two out")
    return content


def _refuse_duplicates(root: yaml.Node) -> None:
    """Raise DuplicateKeyError with both lines if a mapping has a key twice."""
    nodes, seen = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:  # an alias of a node that was looked at
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += (value for _, value in node.value)
            _refuse_duplicate_keys(node)


def _refuse_duplicate_keys(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            line, place = key.start_mark.line + 1, (key.tag, key.value)
            if place in lines:
                where = f"in line {lines[place]} and again in line {line}"
                raise DuplicateKeyError(f"key {key.value!r} stands {where}: leave one of the two out")
            lines[place] = line


def read_mapping(path: Path, section: type[BaseModel]) -> dict[str, Any]:
    """Read the keys and values of a file without checking them. Raise OperatorError if it is not a mapping."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"the settings file {path} does not exist") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or no such date
        raise OperatorError(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise OperatorError(f"{path} must hold keys and values, such as `{next(iter(section.model_fields))}: ...`")
    return content


def check(content: dict[str, Any], section: type[AnySection], origin: Callable[[Location], Path]) -> AnySection:
    """Validate the content as a section; `origin` returns the file of a location in it. Raises OperatorError."""
    try:
        return section.model_validate(content)
    except ValidationError as invalid:
        problems: dict[Path, list[str]] = {}
        for error in invalid.errors():
            location = error["loc"]
            key = ".".join(str(part) for part in location if part != "[key]")
            if error["type"] == "extra_forbidden":
                allowed = _allowed_keys(section, location)
                similar = did_you_mean(str(location[-1]), allowed)
                problem = f"unknown key {key}{similar}; allowed here: {', '.join(allowed)}"
            else:
                message = error["msg"].removeprefix("Value error, ")
                problem = f"{key}: {message}" if key else message
            problems.setdefault(origin(location), []).append(problem)
        raise OperatorError("; ".join(f"{path}: {'; '.join(lines)}" for path, lines in problems.items())) from None


def _allowed_keys(section: type[BaseModel], location: Location) -> tuple[str, ...]:
    for name in location[:-1]:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        section = next(_sections_in(annotation), section)
    return tuple(section.model_fields)


def _sections_in(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the sections of a field's type: optional sections and lists of sections hold theirs as type arguments."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections_in(argument)
