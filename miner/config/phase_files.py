"""Phases as files: config/phases/NAME.yaml, each complete or extending another."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from miner.config.loader import Location, check, phase_folders, phase_names, read_mapping
from miner.config.phase import Phase
from miner.errors import OperatorError
from miner.words import did_you_mean

EXTENDS = "extends"
# Texts for people: they change nothing in what is generated, and are not inherited.
TEXTS = ("note", "hypothesis")


@dataclass(frozen=True)
class NamedPhase:
    """A phase's name and settings; a name may stand for other settings later, a hash never does."""

    name: str
    settings: Phase

    @cached_property
    def config_hash(self) -> str:
        """Twelve hexadecimal digits of all settings that shape a result; defaults count as absent."""
        content = self.settings.model_dump(mode="json", exclude=set(TEXTS), exclude_defaults=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """The name with the hash, for people."""
        return f"{self.name} ({self.config_hash})"

    @property
    def yaml(self) -> str:
        """All settings as the text of a complete phase file."""
        content = self.settings.model_dump(mode="json", exclude_none=True)
        content = {key: value for key, value in content.items() if value not in ("", {})}
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)

    def flat(self) -> dict[str, Any]:
        """Return all settings, defaults included, by dotted key."""

        def walk(content: dict[str, Any], prefix: str) -> dict[str, Any]:
            flat: dict[str, Any] = {}
            for key, value in content.items():
                is_nested = isinstance(value, dict) and value
                flat |= walk(value, f"{prefix}{key}.") if is_nested else {f"{prefix}{key}": value}
            return flat

        return walk(self.settings.model_dump(mode="json", exclude=set(TEXTS)), "")


def load_phase(name: str, config: Path) -> NamedPhase:
    """Read a phase and the phases that it extends, for the settings file `config`.

    Mappings are merged key by key, other values are replaced, and `null` removes a key. Raises OperatorError naming
    the file, the key and what is allowed.
    """
    merged: dict[str, Any] = {}
    origins: dict[Location, Path] = {}
    file = find_phase(name, config)
    for path, content in _layers(name, config):
        for text in TEXTS:
            merged.pop(text, None)
        _merge(merged, content, path, origins, ())

    def origin(location: Location) -> Path:
        prefixes = (location[:length] for length in range(len(location), 0, -1))
        return next((origins[prefix] for prefix in prefixes if prefix in origins), file)

    return NamedPhase(name, check(merged, Phase, origin))


def _layers(name: str, config: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return the files of a phase, the one that extends no other first. Raise OperatorError."""
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
            circle = " -> ".join([*chain, parent])
            raise OperatorError(f"{path}: {EXTENDS}: phases extend one another in a circle: {circle}")
        chain.append(parent)
        try:
            path = find_phase(parent, config)
        except OperatorError as error:
            raise OperatorError(f"{path}: {EXTENDS}: {error}") from None


def _merge(
    base: dict[str, Any], changes: dict[str, Any], path: Path, origins: dict[Location, Path], prefix: Location
) -> None:
    for key, value in changes.items():
        location = (*prefix, key)
        origins[location] = path
        if isinstance(value, dict):
            inherited = base.get(key)
            base[key] = section = dict(inherited) if isinstance(inherited, dict) else {}
            _merge(section, value, path, origins, location)
        else:
            base[key] = value


def find_phase(name: str, config: Path) -> Path:
    """Return the file of a phase. Raise OperatorError if there is none."""
    for folder in phase_folders(config):
        if name and (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    known = phase_names(config)
    names = f"{', '.join(known)} (files in {config.parent}/phases)"
    raise OperatorError(f"there is no phase {name!r}{did_you_mean(name, known)}; there are: {names}")
