"""What CONTRIBUTING.md says of the tree is what the import rules enforce."""

import re
import tomllib

import pytest

from tests.support.paths import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def layers_of(package: str) -> list[set[str]]:
    (contract,) = [c for c in CONTRACTS if c["type"] == "layers" and c["layers"][-1] == f"{package}.errors"]
    layers = [{name.removeprefix(f"{package}.") for name in line.split(" | ")} for line in contract["layers"]]
    return [layer for layer in layers if layer != {"__main__"}]


@pytest.mark.parametrize("package", ["miner", "pipeline"])
def test_the_layers_are_those_of_the_import_rules(package: str) -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(rf"<!-- layers: {package} -->\n```\n(.*?)```", text, re.DOTALL)
    assert block is not None
    documented = [set(re.split(r" {2,}", line)[0].split(" | ")) for line in block[1].splitlines()]
    assert documented == layers_of(package)


@pytest.mark.parametrize("package", ["miner", "pipeline"])
def test_every_module_of_a_package_has_a_layer(package: str) -> None:
    folder = ROOT / package
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert modules - {"__init__", "__main__"} == set().union(*layers_of(package))
