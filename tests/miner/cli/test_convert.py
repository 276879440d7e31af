import hashlib
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "data" / "spz"
CASES = json.loads((GOLDEN / "manifest.json").read_text())["cases"]
SCRIPT = ROOT / "scripts" / "convert.py"


@pytest.fixture
def convert(monkeypatch: pytest.MonkeyPatch):
    """Run the script in this process; returns its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return stopped.value.code

    return run


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case["ply"]["file"]])
def test_files_are_those_of_the_reference(convert, tmp_path: Path, name: str, capsys) -> None:
    packed, unpacked = tmp_path / "a.spz", tmp_path / "a.ply"
    assert convert(GOLDEN / f"{name}.ply", packed) == 0
    assert packed.read_bytes() == (GOLDEN / f"{name}.spz").read_bytes()
    printed = capsys.readouterr()
    assert f"{CASES[name]['count']} gaussians, {packed.stat().st_size} bytes" in printed.out
    # Every edge file holds a NaN; nothing is lost from the others.
    assert ("warning: values are lost" in printed.err) == name.startswith("edge_")
    assert convert(packed, unpacked) == 0
    assert hashlib.sha256(unpacked.read_bytes()).hexdigest() == CASES[name]["dec"]["sha256"]


def test_it_runs_from_any_directory(tmp_path: Path) -> None:
    (tmp_path / "in.ply").write_bytes((GOLDEN / "n7.ply").read_bytes())
    command = [sys.executable, str(SCRIPT), "in.ply", "OUT.SPZ"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert (tmp_path / "OUT.SPZ").read_bytes() == (GOLDEN / "n7.spz").read_bytes()


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
    convert, tmp_path: Path, source: str, content: bytes | None, target: str, message: str, capsys
) -> None:
    if content is not None:
        (tmp_path / source).write_bytes(content)
    assert convert(tmp_path / source, tmp_path / target) == 2
    printed = capsys.readouterr()
    assert message in printed.err.splitlines()[-1]
    assert "Traceback" not in printed.err
    assert printed.out == ""
    assert not (tmp_path / target).exists()
