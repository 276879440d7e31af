"""Phases as files: config/phases/NAME.yaml, each complete or extending another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from miner.config.loader import Location, check, read_mapping, shipped_config
from miner.config.phase import Phase
from miner.errors import OperatorError

EXTENDS = "extends"
# For people: they change nothing in what is generated, and are not inherited.
WORDS = ("note", "hypothesis")


@dataclass(frozen=True)
class NamedPhase:
    """Settings and what they are called; the same name may stand for other settings later, the hash may not."""

    name: str
    settings: Phase

    @cached_property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits of all that shapes a result; what equals its default is as good as not there."""
        content = self.settings.model_dump(mode="json", exclude=set(WORDS), exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.name} ({self.config_hash})"

    @property
    def yaml(self) -> str:
        """All settings as a complete file of a phase."""
        content = self.settings.model_dump(mode="json", exclude_none=True)
        content = {key: value for key, value in content.items() if value not in ("", {})}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def load_phase(name: str, config: Path) -> NamedPhase:
    """A phase with all that it extends, for the settings file `config`.

    Mappings are merged key by key, anything else is replaced; `null` takes a key away. Raises OperatorError naming the
    file, the key and what is allowed.
    """
    merged: dict[str, Any] = {}
    origins: dict[Location, Path] = {}
    file = find_phase(name, config)
    for path, content in _layers(name, config):
        for word in WORDS:
            merged.pop(word, None)
        _merge(merged, content, path, origins, ())

    def origin(location: Location) -> Path:
        prefixes = (location[:length] for length in range(len(location), 0, -1))
        return next((origins[prefix] for prefix in prefixes if prefix in origins), file)

    return NamedPhase(name, check(merged, Phase, origin))


def _layers(name: str, config: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The files of a phase, from the one that extends no other to its own. Raises OperatorError."""
    layers: list[tuple[Path, dict[str, Any]]] = []
    chain = [name]
    path = find_phase(name, config)
    while True:
        content = read_mapping(path, Phase)
        parent = content.pop(EXTENDS, None)
        layers.insert(0, (path, content))
        if parent is None:
            return layers
        if not isinstance(parent, str):
            raise OperatorError(f"{path}: {EXTENDS}: must be the name of one phase, not {parent!r}")
        if parent in chain:
            raise OperatorError(f"{path}: {EXTENDS}: goes round in a circle: {' -> '.join([*chain, parent])}")
        chain.append(parent)
        try:
            path = find_phase(parent, config)
        except OperatorError as error:
            raise OperatorError(f"{path}: {EXTENDS}: {error}") from None


def _merge(
    base: dict[str, Any], changes: dict[str, Any], path: Path, origins: dict[Location, Path], at: Location
) -> None:
    for key, value in changes.items():
        location = (*at, key)
        origins[location] = path
        if isinstance(value, dict):
            below = base.get(key)
            base[key] = below = dict(below) if isinstance(below, dict) else {}
            _merge(below, value, path, origins, location)
        else:
            base[key] = value


def phase_folders(config: Path) -> list[Path]:
    """Where phases are looked for: beside the settings file, then among those shipped."""
    return list(dict.fromkeys([config.parent / "phases", shipped_config() / "phases"]))


def phase_names(config: Path) -> list[str]:
    """All phases there are, whether or not they can be read."""
    return sorted({file.stem for folder in phase_folders(config) for file in folder.glob("*.yaml")})


def find_phase(name: str, config: Path) -> Path:
    """The file of a phase. Raises OperatorError if there is none."""
    for folder in phase_folders(config):
        if name and (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = ", ".join(phase_names(config))
    raise OperatorError(f"there is no phase {name!r}; there are: {known} (files in {config.parent}/phases)")


def flat(phase: NamedPhase) -> dict[str, Any]:
    """Its settings by dotted key, those at their defaults too."""

    def walk(content: dict[str, Any], at: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in content.items():
            inner = walk(value, f"{at}{key}.") if isinstance(value, dict) and value else {f"{at}{key}": value}
            found |= inner
        return found

    return walk(phase.settings.model_dump(mode="json", exclude=set(WORDS)), "")
