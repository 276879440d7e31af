"""Packages export what other packages use, no more, and other packages import it from there."""

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from pipeline import errors as pipeline_errors
from tests.support.paths import ROOT

# Their modules are imported one by one. miner.subnet: most of them load bittensor, and generation needs none of that.
# The packages inside pipeline: only pipeline itself is for others.
WITHOUT_EXPORTS = {"miner.cli", "miner.subnet"}
# Modules outside their package's exports, and why.
IMPORTED_DIRECTLY = {
    "miner.config.choice_sections": "loads pipeline",
    "miner.config.phase": "loads pipeline, which the report and the status do without",
    "miner.config.phase_files": "loads pipeline",
    "miner.config.phase_sections": "loads pipeline",
    "miner.config.policy_file": "loads ruamel.yaml, which only `blacklist add` and `remove` need",
    "miner.config.run_settings": "loads pipeline",
    "miner.localnet.raw_client": "is used by scripts.validation and tests alone",
    "miner.runtime.gpu_memory": "loads torch",
}
# What pipeline exports because it stands in the signatures of what it exports.
TYPES_OF_THE_EXPORTED = {"Combine", "Generator", "PackedSplats", "ScoreSplats", "ScoredViews", "Statistics"}
SOURCES = [path for folder in ("miner", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in SOURCES}
PACKAGES = sorted(
    package
    for path in ROOT.glob("miner/**/__init__.py")
    if (package := ".".join(path.parent.relative_to(ROOT).parts)) not in WITHOUT_EXPORTS | {"miner"}
)


def package_of(path: Path) -> str:
    return ".".join(path.parent.relative_to(ROOT).parts)


@cache
def foreign_imports(path: Path) -> frozenset[tuple[str, str]]:
    """Module and name of what a file imports from packages that it is not in."""
    return frozenset(_find_foreign_imports(path))


def _find_foreign_imports(path: Path) -> Iterator[tuple[str, str]]:
    own = package_of(path)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                module = node.module
                if f"{module}.{alias.name}" in MODULES:
                    continue  # a whole module, whose names then say where they are from
                package = module if module in PACKAGES else module.rpartition(".")[0]
                if package in PACKAGES and package != own and not own.startswith(f"{package}."):
                    yield module, alias.name


def names_from_pipeline(path: Path) -> set[str]:
    """What a file takes from the package `pipeline` itself."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pipeline":
            found.add(node.attr)
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_exports_are_what_other_packages_import(package: str) -> None:
    imports = {found for path in SOURCES for found in foreign_imports(path)}
    exported = importlib.import_module(package).__all__
    assert sorted(exported) == sorted({name for module, name in imports if module == package})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_other_packages_import_what_is_exported(path: Path) -> None:
    modules = {module for module, _ in foreign_imports(path)}
    assert modules - set(PACKAGES) <= set(IMPORTED_DIRECTLY)


def test_generation_is_used_through_its_facade() -> None:
    facade = importlib.import_module("pipeline")
    assert all(hasattr(facade, name) for name in facade.__all__)
    used = {facade_name for path in SOURCES for facade_name in names_from_pipeline(path)}
    errors = {name for name, one in vars(pipeline_errors).items() if isinstance(one, type)}
    assert set(facade.__all__) == (used & vars(facade).keys()) | errors | TYPES_OF_THE_EXPORTED
    for path in (ROOT / "miner").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pipeline":
                assert node.module == "pipeline", path
                assert {alias.name for alias in node.names} <= set(facade.__all__), path
