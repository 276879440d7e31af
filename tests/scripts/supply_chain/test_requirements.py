"""The requirement files with hashes say what setup.py and constraints.txt say, and hold all that is installed."""

import re
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.supply_chain.pins import ONLY_WHEELS, REQUIREMENTS, Pin, parse_pins, read_constraints, read_pins
from scripts.supply_chain.requirements import (
    EXTRAS,
    TORCH_CPU_BUILDS,
    TORCH_CPU_VERSION,
    environments,
    requirements,
)
from tests.support.paths import ROOT

FILES = sorted(path.name for path in (ROOT / REQUIREMENTS).iterdir())
CPU_BUILDS = set(TORCH_CPU_BUILDS.values())


def needed(extras: list[str]) -> set[str]:
    """The names of the packages that setup.py requires with some extras, and that these require here in turn."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements(ROOT, extras)]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        for text in required:
            further = Requirement(text)
            asked = [further.marker is None or further.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)]
            if any(asked):
                waiting.append(further)
    return found


@pytest.mark.parametrize("file", FILES)
def test_every_package_has_hashes_and_the_version_of_the_constraints(file: str) -> None:
    text = (ROOT / REQUIREMENTS / file).read_text()
    constraints = read_constraints(ROOT)
    pins = list(parse_pins(text))
    assert pins
    for pin in pins:
        assert pin.version.removesuffix("+cpu") == constraints[pin.name]
        assert pin.hashes
    assert ONLY_WHEELS in text.splitlines()
    # Whoever installs decides where packages come from.
    assert not re.search(r"https?:|index-url|find-links|trusted-host", text)


@pytest.mark.parametrize(
    ("file", "extras"),
    [
        (("cpu.txt",), ["cpu", "demo"]),
        (("cpu-default-index.txt",), ["cpu", "demo"]),
        (("gpu.txt",), ["gpu", "demo"]),
        (("cpu.txt", "extras.txt"), ["cpu", *EXTRAS]),
        (("cpu.txt", "dev.txt"), ["cpu", "dev"]),
    ],
)
def test_nothing_is_missing_in_the_files_that_are_installed_together(file: tuple[str, ...], extras: list[str]) -> None:
    assert needed(extras) <= {pin.name for name in file for pin in read_pins(name, ROOT)}


@pytest.mark.parametrize("file", ["cpu.txt", "cpu-default-index.txt", "gpu.txt"])
def test_each_environment_gets_each_package_once(file: str) -> None:
    for environment in environments():
        names = [pin.name for pin in read_pins(file, ROOT) if pin.applies(environment)]
        assert len(names) == len(set(names))
        assert "torch" in names
        assert ("onnxruntime-gpu" in names, "onnxruntime" in names) == (file == "gpu.txt", file != "gpu.txt")


def test_linux_gets_the_build_of_torch_that_the_file_is_for() -> None:
    linux = next(environment for environment in environments() if environment["sys_platform"] == "linux")

    def torch(file: str) -> Pin:
        (pin,) = [pin for pin in read_pins(file, ROOT) if pin.name == "torch" and pin.applies(linux)]
        return pin

    assert torch("cpu.txt").version == TORCH_CPU_VERSION
    assert set(torch("cpu.txt").hashes) == CPU_BUILDS
    for file in ("gpu.txt", "cpu-default-index.txt"):
        assert not CPU_BUILDS & set(torch(file).hashes)
        assert any(pin.name.startswith("nvidia-") for pin in read_pins(file, ROOT))
    assert not any(pin.name.startswith(("nvidia-", "cuda-", "triton")) for pin in read_pins("cpu.txt", ROOT))


def test_what_is_written_is_read_again() -> None:
    pin = Pin("torch", "2.13.0+cpu", ("a" * 64, "b" * 64), "sys_platform == 'linux'")
    assert list(parse_pins(f"# a comment\n-r other.txt\n\n{pin}\n")) == [pin]
    with pytest.raises(ValueError, match="not a pinned requirement: numpy>=2"):
        list(parse_pins("numpy>=2\n"))
