import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from miner.words import plural
from pipeline import Splats, ply, spz
from tests.support.cli import run
from tests.support.paths import DATA, ROOT
from tests.support.splat_corpus import SPLATS, SplatCase, cloud

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


@pytest.mark.parametrize("case", SPLATS[::4], ids=lambda case: case.name)
def test_what_people_have_is_converted_or_refused_in_one_line(tmp_path: Path, case: SplatCase) -> None:
    source, target = tmp_path / f"a.{case.suffix}", tmp_path / "b.ply"
    source.write_bytes(case.make())
    result = run("splats", "convert", source, target)
    if isinstance(case.expected, str):
        assert result.exit_code == 2
        assert result.stderr.splitlines()[-1].startswith(f"ERROR: {source}: ")
        assert not target.exists()
    else:
        assert result.exit_code == 0
        assert case.warning in result.stderr
        assert len(ply.from_bytes(target.read_bytes())) == len(case.expected)


@pytest.mark.parametrize(("content", "name"), [(ply.to_bytes, "a.spz"), (spz.to_bytes, "a.ply")])
def test_a_file_is_read_as_what_it_is_whatever_its_name(tmp_path: Path, content, name: str) -> None:
    source, target = tmp_path / name, tmp_path / "b.spz"
    source.write_bytes(content(cloud()))
    result = run("splats", "convert", source, target)
    assert result.exit_code == 0
    assert f"{source}: warning: this is a" in result.stderr
    assert "whatever its name says" in result.stderr
    assert target.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


def test_the_file_to_write_is_named_in_either_way_and_once(tmp_path: Path) -> None:
    source, first, second = (tmp_path / name for name in ("a.ply", "b.spz", "c.spz"))
    source.write_bytes(ply.to_bytes(cloud()))
    assert run("splats", "convert", source, first).exit_code == 0
    assert run("splats", "convert", source, "-o", second).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    for more in ((), (first, "-o", second)):
        result = run("splats", "convert", source, *more)
        assert result.exit_code == 2
        assert "name the file to write once" in result.stderr
    assert "ends in .ply or .spz" in run("splats", "convert", source, "-o", tmp_path / "c.obj").stderr


def spoiled(**changes: float) -> Splats:
    """Splats whose second one has these values throughout its attributes."""
    splats = cloud()
    return replace(
        splats,
        **{name: getattr(splats, name).index_fill(0, torch.tensor(1), value) for name, value in changes.items()},
    )


@pytest.mark.parametrize(
    ("splats", "reason"),
    [
        (spoiled(quaternions=0.0), "1 of 6 quaternions are zero, which is no rotation"),
        (spoiled(f_dc=torch.nan), "f_dc hold a NaN"),
        (spoiled(quaternions=-torch.inf), "quaternions hold an infinity"),
        (spoiled(means=torch.nan, quaternions=0.0), "means hold a NaN.*1 of 6 quaternions are zero"),
    ],
)
def test_what_spz_cannot_hold_is_told_with_the_command_that_leaves_it_out(
    tmp_path: Path, splats: Splats, reason: str
) -> None:
    source, target = tmp_path / "a.ply", tmp_path / "b.spz"
    source.write_bytes(ply.to_bytes(splats))
    result = run("splats", "convert", source, target)
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert re.search(f"warning: values are lost: .*{reason}", line)
    assert "`sn17-miner splats convert IN OUT --drop-invalid`" in line
    result = run("splats", "convert", source, target, "--drop-invalid")
    assert (result.exit_code, result.stderr) == (0, f"{source}: 1 gaussians left out\n")
    decoded = spz.from_bytes(target.read_bytes())
    kept = [0, 2, 3, 4, 5]
    torch.testing.assert_close(decoded.means, splats.means[kept], rtol=0, atol=2**-12)


@pytest.mark.parametrize("length", [1e-40, 1e-20, 1e20, 1e30])
def test_a_rotation_of_any_length_is_written(tmp_path: Path, length: float) -> None:
    source, target = tmp_path / "a.ply", tmp_path / "b.spz"
    source.write_bytes(ply.to_bytes(replace(cloud(), quaternions=torch.full((6, 4), length))))
    result = run("splats", "convert", source, target)
    assert (result.exit_code, result.stderr) == (0, "")
    found = spz.from_bytes(target.read_bytes()).quaternions
    torch.testing.assert_close(found, torch.full((6, 4), 0.5), rtol=0, atol=0.008)


def test_an_object_that_is_too_large_is_scaled(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ply", tmp_path / "b.spz"
    source.write_bytes(ply.to_bytes(replace(cloud(), means=cloud().means * 1e6)))
    result = run("splats", "convert", source, target)
    assert "scale the object with `sn17-miner splats convert IN OUT --extent 1`" in result.stderr
    result = run("splats", "convert", source, target, "--extent", 1)
    assert (result.exit_code, result.stderr) == (0, "")
    means = spz.from_bytes(target.read_bytes()).means
    assert float((means.amax(0) - means.amin(0)).amax()) == pytest.approx(1, abs=1e-3)


def test_the_last_gaussian_is_not_left_out_in_silence(tmp_path: Path) -> None:
    source, target = tmp_path / "a.ply", tmp_path / "b.spz"
    source.write_bytes(ply.to_bytes(replace(cloud(), quaternions=torch.zeros(6, 4))))
    result = run("splats", "convert", source, target, "--drop-invalid")
    assert result.exit_code == 2
    assert "0 gaussians cannot be written as SPZ" in result.stderr
    assert not target.exists()


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
