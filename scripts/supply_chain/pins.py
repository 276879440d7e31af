"""Requirement files with hashes: what pip reads with --require-hashes, as values."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.utils import canonicalize_name

REQUIREMENTS = Path("scripts/requirements")
CONSTRAINTS = Path("constraints.txt")
# Wheels alone: a source archive would run its own code and fetch build requirements that no file pins.
ONLY_WHEELS = "--only-binary :all:"
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: *; *(?P<marker>.+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """A package at one version: its normalised name, the environments that need it, and the sha256 of its wheels."""

    name: str
    version: str
    hashes: tuple[str, ...]
    marker: str = ""

    def __str__(self) -> str:
        """Return the lines of a requirement file."""
        requirement = f"{self.name}=={self.version}" + (f" ; {self.marker}" if self.marker else "")
        return " \\\n".join([requirement, *(f"    --hash=sha256:{digest}" for digest in sorted(self.hashes))])

    def applies(self, environment: dict[str, str]) -> bool:
        """Return whether an environment, as packaging's markers describe it, needs the package."""
        return not self.marker or Marker(self.marker).evaluate(environment)


def parse_pins(text: str) -> Iterator[Pin]:
    """Yield the packages of a requirement file; options and comments are passed over. Raises ValueError."""
    for line in text.replace("\\\n", " ").splitlines():
        requirement, *_ = line.partition("--hash")
        if not requirement.strip() or requirement.startswith(("#", "-")):
            continue
        match = _REQUIREMENT.fullmatch(requirement.strip())
        if match is None:
            raise ValueError(f"not a pinned requirement: {line}")
        name, version, marker = match.group("name", "version", "marker")
        yield Pin(canonicalize_name(name), version, tuple(_HASH.findall(line)), marker or "")


def own_pins(name: str, root: Path) -> list[Pin]:
    """Return the packages of a file in scripts/requirements; some come once for each marker."""
    return list(parse_pins((root / REQUIREMENTS / name).read_text(encoding="utf-8")))


def read_pins(name: str, root: Path) -> list[Pin]:
    """Return the packages of a file in scripts/requirements, and before them those of the files that it includes."""
    text = (root / REQUIREMENTS / name).read_text(encoding="utf-8")
    included = re.findall(r"^-r (\S+)$", text, re.MULTILINE)
    return [*(pin for other in included for pin in read_pins(other, root)), *own_pins(name, root)]


def read_constraints(root: Path) -> dict[str, str]:
    """Return the version of each package in constraints.txt, by normalised name."""
    return {pin.name: pin.version for pin in parse_pins((root / CONSTRAINTS).read_text(encoding="utf-8"))}


def write_file(path: Path, purpose: str, includes: Iterable[str], pins: Iterable[Pin]) -> None:
    """Write a requirement file: the command that makes it, what it is for, the files that it includes, and pins."""
    lines = [f"# {purpose} Made by", "#     python -m scripts.supply_chain.requirements"]
    lines += [f"-r {name}" for name in includes]
    lines += ["", ONLY_WHEELS, "", *(str(pin) for pin in sorted(pins, key=lambda pin: (pin.name, pin.version))), ""]
    path.write_text("\n".join(lines), encoding="utf-8")
