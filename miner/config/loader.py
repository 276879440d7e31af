"""Read YAML files into frozen, checked values; errors name the file, the key and what is allowed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from miner.errors import OperatorError

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


def read_mapping(path: Path, section: type[BaseModel]) -> dict[str, Any]:
    """Read the keys and values of a file without checking them. Raise OperatorError if it is not a mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
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
                problem = f"unknown key {key}; allowed here: {_allowed_keys(section, location)}"
            else:
                message = error["msg"].removeprefix("Value error, ")
                problem = f"{key}: {message}" if key else message
            problems.setdefault(origin(location), []).append(problem)
        raise OperatorError("; ".join(f"{path}: {'; '.join(lines)}" for path, lines in problems.items())) from None


def _allowed_keys(section: type[BaseModel], location: Location) -> str:
    for name in location[:-1]:
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        # Optional sections and lists of sections hold theirs as type arguments.
        for candidate in (annotation, *get_args(annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return ", ".join(section.model_fields)
