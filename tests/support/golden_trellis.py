"""Copies of the golden data of TRELLIS with something wrong in them."""

import json
from pathlib import Path

import numpy as np

from scripts.parity_checks.report import BOUND, STRUCTURE_DECODER_BOUND
from scripts.parity_checks.units import TIMESTEP_EMBEDDING_BOUND
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "data" / "trellis"
# By twice the bound.
SLIGHTLY = "slightly"
BOUNDS = {
    "t_emb256": TIMESTEP_EMBEDDING_BOUND,
    "logits": STRUCTURE_DECODER_BOUND,
    "logits_every7": STRUCTURE_DECODER_BOUND,
}


def link_golden(folder: Path) -> Path:
    """Fill a folder with links to the golden data; replace what is to be changed. Return the folder."""
    for path in GOLDEN.iterdir():
        (folder / path.name).symlink_to(path)
    return folder


def replace(directory: Path, file: str, data: bytes) -> None:
    (directory / file).unlink()
    (directory / file).write_bytes(data)


def keep_only(directory: Path, *files: str) -> None:
    """Shorten the manifest to these files, for speed."""
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"] = {name: manifest["files"][name] for name in files}
    replace(directory, "manifest.json", json.dumps(manifest).encode())


def spoil_array(directory: Path, file: str, name: str, value: float | str, index: int = -7) -> None:
    with np.load(GOLDEN / file) as archive:
        arrays = {key: archive[key] for key in archive.files}
    flat = arrays[name].reshape(-1)
    slightly = 2 * BOUNDS.get(name, BOUND) * np.abs(flat).max()
    flat[index] = flat[index] + slightly if value == SLIGHTLY else value
    (directory / file).unlink()
    np.savez(directory / file, **arrays)
