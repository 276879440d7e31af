"""The bill of materials and the page of licences say what is installed, shipped and downloaded."""

import json
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from miner.config import shipped_config
from miner.config.phase_files import load_phase
from pipeline import BACKGROUND_MODELS
from scripts.supply_chain.licences import is_allowed, licence_of
from scripts.supply_chain.models import UNSTATED, models
from scripts.supply_chain.pins import read_constraints, read_pins
from tests.support.paths import ROOT

FOLDER = ROOT / "scripts" / "supply_chain"
BOM = json.loads((FOLDER / "sbom.cdx.json").read_text())
PAGE = (FOLDER / "licences.md").read_text()
MODELS = {model.name: model for model in models(ROOT)}


def licence(component: dict[str, Any]) -> str:
    (choice,) = component["licenses"]
    return str(choice["expression"])


def hashes(component: dict[str, Any]) -> set[str]:
    assert {entry["alg"] for entry in component.get("hashes", [])} <= {"SHA-256"}
    return {entry["content"] for entry in component.get("hashes", [])}


PACKAGES = {c["name"]: c for c in BOM["components"] if c["purl"].startswith("pkg:pypi/")}
OTHERS = {c["name"]: c for c in BOM["components"] if c["name"] not in PACKAGES}


def test_it_has_every_package_with_all_its_hashes() -> None:
    pins: dict[str, set[str]] = {}
    for file in ("cpu.txt", "gpu.txt", "extras.txt"):
        for pin in read_pins(file, ROOT):
            pins.setdefault(pin.name, set()).update(pin.hashes)
    assert {name: hashes(component) for name, component in PACKAGES.items()} == pins
    constraints = read_constraints(ROOT)
    assert all(component["version"] == constraints[name] for name, component in PACKAGES.items())


def test_no_package_has_a_licence_that_is_not_allowed() -> None:
    for name, component in PACKAGES.items():
        assert is_allowed(licence(component), name), name


def test_installed_packages_say_the_same_of_themselves() -> None:
    compared = 0
    for name, component in PACKAGES.items():
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # only on GPUs
        stated = distribution.metadata.json
        if distribution.version.removesuffix("+cpu") == component["version"]:
            assert licence_of({**stated, "name": name}) == licence(component), name
            compared += 1
    assert compared > 90


def test_models_and_scripts_are_those_of_the_product() -> None:
    assert OTHERS.keys() == MODELS.keys()
    for name, model in MODELS.items():
        assert hashes(OTHERS[name]) == set(model.sha256), name
        assert licence(OTHERS[name]) == model.licence
        assert OTHERS[name].get("version", "") == model.version
    assert set(BACKGROUND_MODELS) <= MODELS.keys()


def test_what_is_used_by_default_has_a_known_and_free_licence() -> None:
    for model in MODELS.values():
        assert is_allowed(model.licence) or (model.licence == UNSTATED and not model.is_default), model.name
    shipped = shipped_config() / "miner.yaml"
    for phase in ("phase3", "demo"):
        settings = load_phase(phase, shipped).settings
        assert settings.image is not None and settings.text is not None and settings.background.model is not None
        for name in (settings.image.checkpoint, settings.text.checkpoint, settings.background.model):
            used = {"embedded": "tiny", "embedded-text": "tiny-text"}.get(name, name)
            assert MODELS[used].is_default
        assert settings.scorer is None and settings.text_to_image is None


def test_downloads_are_known_by_a_checksum_or_a_revision() -> None:
    newest = {name for name, model in MODELS.items() if not model.sha256 and not model.version}
    # As validators take it.
    assert newest == {"laion/CLIP-convnext_large_d.laion2B-s26B-b102K-augreg"}


def test_scripts_have_the_checksums_of_their_own_list() -> None:
    listed = set(re.findall(r"[0-9a-f]{64}", (ROOT / "miner/monitor/static/vendor/THIRD_PARTY.md").read_text()))
    assert set().union(*(model.sha256 for model in MODELS.values() if model.is_script)) == listed


def test_the_page_says_what_the_bill_says() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line[:1] == "|"]
    packages = {row[0]: (row[1], row[2]) for row in rows if len(row) == 4 and row[0] in PACKAGES}
    assert packages == {name: (c["version"], licence(c)) for name, c in PACKAGES.items()}
    parts = {row[0]: row for row in rows if len(row) == 6 and row[0] in MODELS}
    assert parts.keys() == MODELS.keys()
    for name, model in MODELS.items():
        assert parts[name][2:] == [model.licence, model.note, "yes" if model.is_default else "no", model.known_by]


def test_the_graph_joins_parts_that_are_there() -> None:
    references = {component["bom-ref"] for component in BOM["components"]} | {"sn17-miner"}
    graph = {entry["ref"]: entry.get("dependsOn", []) for entry in BOM["dependencies"]}
    assert graph.keys() == references
    reached: set[str] = set()
    waiting = ["sn17-miner"]
    while waiting:
        reference = waiting.pop()
        if reference not in reached:
            reached.add(reference)
            waiting += graph[reference]
    assert reached == references


def test_it_follows_the_schema() -> None:
    pytest.importorskip("cyclonedx")
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(BOM)) is None


def test_no_host_of_a_package_index_is_named() -> None:
    for path in Path(FOLDER).iterdir():
        if path.is_file():
            assert not re.search(r"pypi\.org|pythonhosted|download\.pytorch\.org/whl", path.read_text()), path
