r"""Write the software bill of materials (CycloneDX 1.6) and the table of licences, from what pip reports.

    pip install --dry-run --ignore-installed --require-hashes --report report.json \
        -r scripts/requirements/gpu.txt -r scripts/requirements/cpu-default-index.txt -r scripts/requirements/extras.txt
    python -m scripts.supply_chain.bom report.json

The first command needs Linux and a current pip, which fetches metadata alone; pip of before 2025 downloads 4 GB. Writes
sbom.cdx.json and licences.md beside this file. Exits with 1 if a licence is unknown or not allowed, if the report is of
other versions than the requirement files, or if the result does not follow CycloneDX's schema.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.supply_chain.licences import is_allowed, licence_of
from scripts.supply_chain.models import UNSTATED, Model, models
from scripts.supply_chain.pins import Pin, own_pins
from scripts.supply_chain.requirements import EXTRAS

FOLDER = Path("scripts/supply_chain")
BOM_FILE, LICENCES_FILE = FOLDER / "sbom.cdx.json", FOLDER / "licences.md"
# Which installations need the packages of a file.
NEEDED_BY = {
    "common.txt": "all", "torch-cuda.txt": "gpu", "torch-cpu.txt": "cpu", "cpu.txt": "cpu", "gpu.txt": "gpu",
    "extras.txt": ", ".join(EXTRAS),
}  # fmt: skip
_PAGE = """# Licences

Made by `python -m scripts.supply_chain.bom`; a test keeps it true. The project itself is under the MIT licence.

- Nothing that the miner uses by default forbids commercial use, or is under the GPL, LGPL or AGPL.
- MPL-2.0, of which certifi and tqdm are, covers their own files alone. The exception behind a GPL allows what is linked
  with the run-time library of gfortran to be under any licence. What packages bundle in their wheels stands in their
  own notices.
- `LicenseRef-NVIDIA-Proprietary` are CUDA's libraries, which torch needs on GPUs: commercial use is allowed.
- `LicenseRef-Unstated`: we know of no licence. Nothing of that kind is used by default.
- A text-to-image model is the operator's choice: none is shipped, none is named by default. So are distilled flows.

## Models and scripts

What is downloaded is checked, as the last column says: against a checksum in the code, or in a revision that the code
names, against the checksums that the hub has for it. The one that follows the newest revision does so because
validators do; a phase may name `@COMMIT` behind it. All of the hub's are safetensors, which cannot run code.

{models}

## Packages

Their sha256 are in [scripts/requirements](../requirements), from which they are installed.

{packages}
"""
_PROPERTY = "sn17-miner:needed-by"
Metadata = Mapping[str, Any]


def read_report(path: Path) -> dict[str, Metadata]:
    """Return the metadata of each package of pip's report, by normalised name."""
    report = json.loads(path.read_text(encoding="utf-8"))
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"] for item in report["install"]}


def package_components(report: Mapping[str, Metadata], root: Path) -> dict[str, Component]:
    """Return a component for each package of the requirement files; the builds of torch are one.

    Raises ValueError if the report does not match the files, or if a licence is not allowed.
    """
    pins: dict[str, list[Pin]] = {}
    needed_by: dict[str, set[str]] = {}
    for file, need in NEEDED_BY.items():
        for pin in own_pins(file, root):
            pins.setdefault(pin.name, []).append(pin)
            needed_by.setdefault(pin.name, set()).add(need)
    return {
        name: _package_component(name, report.get(name, {}), pins[name], ", ".join(sorted(needed_by[name])))
        for name in pins
    }


def _package_component(name: str, metadata: Metadata, pins: Sequence[Pin], needed_by: str) -> Component:
    version = str(metadata.get("version"))
    if {pin.version.partition("+")[0] for pin in pins} != {version}:
        raise ValueError(f"the report has {name} {version}, not {pins[0].version}: make it anew, on Linux")
    licence = licence_of(metadata)
    if not licence or not is_allowed(licence, name):
        raise ValueError(f"{name} {version} has the licence {licence or 'unknown'}, which is not allowed")
    purl = PackageURL("pypi", None, name, version)
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, bom_ref=purl.to_string(), purl=purl,
        licenses=[LicenseExpression(licence)], hashes=[_sha256(digest) for pin in pins for digest in pin.hashes],
        scope=ComponentScope.REQUIRED if needed_by in ("all", "cpu, gpu") else ComponentScope.OPTIONAL,
        properties=[Property(name=_PROPERTY, value=needed_by)],
    )  # fmt: skip


def model_component(model: Model) -> Component:
    """Return the component of a model or a script. Raises ValueError if its licence is not allowed."""
    if model.licence == UNSTATED:
        if model.is_default:
            raise ValueError(f"{model.name} is used by default, and its licence is unknown")
    elif not is_allowed(model.licence):
        raise ValueError(f"{model.name} has the licence {model.licence}, which is not allowed")
    namespace, _, name = model.name.rpartition("/")
    kind = "npm" if model.is_script else "huggingface" if namespace else "generic"
    version = model.version or None
    purl = PackageURL(kind, namespace or None, name, version)
    return Component(
        name=model.name, version=version, bom_ref=purl.to_string(), purl=purl, description=model.purpose,
        type=ComponentType.LIBRARY if model.is_script else ComponentType.MACHINE_LEARNING_MODEL,
        licenses=[LicenseExpression(model.licence)], hashes=[_sha256(digest) for digest in model.sha256],
        scope=ComponentScope.REQUIRED if model.is_default else ComponentScope.OPTIONAL,
    )  # fmt: skip


def _sha256(digest: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digest)


def requirements_of(report: Mapping[str, Metadata]) -> dict[str, set[str]]:
    """Return the names of the packages that each package of the report requires, with the extras asked of it."""
    parsed = {name: [Requirement(text) for text in m.get("requires_dist") or ()] for name, m in report.items()}
    extras: dict[str, set[str]] = {name: {""} for name in parsed}
    for requirement in (requirement for needed in parsed.values() for requirement in needed):
        extras.get(canonicalize_name(requirement.name), set()).update(requirement.extras)
    return {
        name: {
            str(canonicalize_name(requirement.name))
            for requirement in needed
            if requirement.marker is None
            or any(requirement.marker.evaluate({"extra": extra}) for extra in extras[name])
        }
        & report.keys()
        for name, needed in parsed.items()
    }  # fmt: skip


def make_bom(report: Mapping[str, Metadata], own_models: Sequence[Model], root: Path) -> Bom:
    """Return the bill of materials. Raises ValueError if a part may not be in the product."""
    product = Component(
        name="sn17-miner", type=ComponentType.APPLICATION, bom_ref="sn17-miner", licenses=[LicenseExpression("MIT")]
    )
    packages = package_components(report, root)
    others = [model_component(model) for model in own_models]
    bom = Bom(components=[*packages.values(), *others], metadata=BomMetaData(component=product))
    # The same parts give the same file.
    bom.metadata.timestamp = None
    content = ",".join(sorted(str(component.bom_ref.value) for component in bom.components))
    bom.serial_number = uuid5(NAMESPACE_URL, content)
    required = requirements_of(report)
    needed_by_others = set().union(*required.values())
    bom.register_dependency(product, [packages[name] for name in packages.keys() - needed_by_others] + others)
    for name, component in packages.items():
        bom.register_dependency(component, [packages[other] for other in required[name] & packages.keys()])
    return bom


def serialise(bom: Bom) -> str:
    """Return the bill of materials as JSON. Raises ValueError if it does not follow the schema."""
    text = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1)
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"not CycloneDX 1.6: {error}")
    return f"{text}\n"


def licence_page(components: Iterable[Component], own_models: Sequence[Model]) -> str:
    """Return the page with the licences of all packages, models and scripts."""
    packages = [("package", "version", "licence", "needed by")]
    for component in sorted(components, key=lambda component: component.name):
        (licence,), (needed_by,) = component.licenses, component.properties
        assert isinstance(licence, LicenseExpression)
        packages.append((component.name, str(component.version), licence.value, str(needed_by.value)))
    parts = [("model or script", "for", "licence", "stated in", "by default", "known by")]
    for model in own_models:
        is_default = "yes" if model.is_default else "no"
        parts.append((model.name, model.purpose, model.licence, model.note, is_default, model.known_by))
    return _PAGE.format(models=_table(parts), packages=_table(packages))


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *others])


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="the report of pip")
    report, root = read_report(parser.parse_args().report), Path.cwd()
    own_models = list(models(root))
    try:
        bom = make_bom(report, own_models, root)
        text = serialise(bom)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    (root / BOM_FILE).write_text(text, encoding="utf-8")
    packages = [component for component in bom.components if component.purl and component.purl.type == "pypi"]
    (root / LICENCES_FILE).write_text(licence_page(packages, own_models), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
