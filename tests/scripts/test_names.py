import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.paths import ROOT

# neurons/miner.py takes its own folder off the path before it imports anything.
MAY_SHADOW = {ROOT / "neurons" / "miner.py"}


def importable(folder: str) -> list[Path]:
    """What `python folder/script.py` could import from its own folder."""
    entries = (ROOT / folder).iterdir()
    found = [p for p in entries if p.suffix == ".py" or (p.is_dir() and any(p.glob("*.py")))]
    return sorted(p for p in found if p not in MAY_SHADOW and not p.stem.startswith("__"))


def test_there_are_scripts() -> None:
    assert ROOT / "scripts" / "parity.py" in importable("scripts")
    assert set((ROOT / "neurons").iterdir()) >= MAY_SHADOW


@pytest.mark.parametrize("path", importable("scripts") + importable("neurons"), ids=lambda p: p.name)
def test_no_script_has_the_name_of_a_module_that_anything_imports(path: Path) -> None:
    """A script's folder comes first on its path: an inspect.py there would be everybody's inspect."""
    assert path.stem not in sys.stdlib_module_names
    assert path.stem not in sys.builtin_module_names
    assert path.stem not in packages_distributions()
