import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from miner.words import plural
from tests.support.cli import run
from tests.support.paths import DATA, ROOT

GOLDEN = DATA / "spz"
CASES = json.loads((GOLDEN / "manifest.json").read_text())["cases"]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["ply"]["file"]])
def test_files_are_those_of_the_reference(tmp_path: Path, name: str) -> None:
    packed, unpacked = tmp_path / "a.spz", tmp_path / "a.ply"
    result = run("splats", "convert", GOLDEN / f"{name}.ply", packed)
    assert result.exit_code == 0
    assert packed.read_bytes() == (GOLDEN / f"{name}.spz").read_bytes()
    assert f"{plural(CASES[name]['count'], 'gaussian')}, {packed.stat().st_size} bytes" in result.stdout
    # Every edge file holds a NaN; nothing is lost from the others.
    assert ("warning: values are lost" in result.stderr) == name.startswith("edge_")
    assert run("splats", "convert", packed, unpacked).exit_code == 0
    assert hashlib.sha256(unpacked.read_bytes()).hexdigest() == CASES[name]["dec"]["sha256"]


@pytest.mark.process
def test_it_runs_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "in.ply").write_bytes((GOLDEN / "n7.ply").read_bytes())
    command = [sys.executable, "-m", "miner", "splats", "convert", "in.ply", "OUT.SPZ"]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "OUT.SPZ").read_bytes() == (GOLDEN / "n7.spz").read_bytes()


@pytest.mark.parametrize("other", ["a.ply", "../{folder}/a.ply", "link.ply"])
def test_a_file_is_not_converted_onto_itself(tmp_path: Path, other: str) -> None:
    source = tmp_path / "a.ply"
    content = (GOLDEN / "n7.ply").read_bytes()
    source.write_bytes(content)
    (tmp_path / "link.ply").symlink_to(source)
    result = run("splats", "convert", source, tmp_path / other.format(folder=tmp_path.name))
    assert result.exit_code == 2
    assert "IN and OUT are the same file" in result.stderr
    assert source.read_bytes() == content


@pytest.mark.parametrize(
    ("source", "content", "target", "message"),
    [
        ("a.ply", b"ply\n", "b.spz", "a.ply: not a PLY"),
        ("a.spz", b"junk", "b.ply", "a.spz: not an SPZ"),
        ("a.ply", None, "b.spz", "a.ply: No such file or directory"),
        ("a.ply", (GOLDEN / "n1.ply").read_bytes(), "nowhere/b.spz", "b.spz: No such file or directory"),
        ("a.txt", b"", "b.spz", "expected a name that ends in .ply or .spz"),
        ("a.ply", b"", "b.splat", "expected a name that ends in .ply or .spz"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    tmp_path: Path, source: str, content: bytes | None, target: str, message: str
) -> None:
    if content is not None:
        (tmp_path / source).write_bytes(content)
    result = run("splats", "convert", tmp_path / source, tmp_path / target)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert result.stdout == ""
    assert not (tmp_path / target).exists()
