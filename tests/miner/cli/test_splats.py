import math
import runpy
import sys
from pathlib import Path

import pytest
import torch

from pipeline import ply, spz
from pipeline.splats.splats import Splats
from tests.support.paths import ROOT

GOLDEN = ROOT / "tests" / "data" / "spz"
SCRIPT = ROOT / "scripts" / "splat_info.py"


@pytest.fixture
def info(monkeypatch: pytest.MonkeyPatch, capsys):
    """Run the script in this process; returns its exit code, its lines by their name and what is on stderr."""

    def run(path: Path) -> tuple[int, dict[str, str], str]:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(path)])
        monkeypatch.setattr(sys, "path", list(sys.path))
        with pytest.raises(SystemExit) as stopped:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        printed = capsys.readouterr()
        return stopped.value.code, {line[:12].strip(): line[13:] for line in printed.out.splitlines()}, printed.err

    return run


def line_of(n: int) -> Splats:
    """Gaussians on a line along x from -0.25 to 0.5, half of them opaque, standard deviation 0.01."""
    return Splats(
        means=torch.stack([torch.linspace(-0.25, 0.5, n), torch.zeros(n), torch.zeros(n)], dim=1),
        quaternions=torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat(n, 1),
        log_scales=torch.full((n, 3), math.log(0.01)),
        opacity_logits=torch.tensor([math.inf, -math.inf]).repeat(n // 2),
        f_dc=torch.zeros(n, 3),
    )


def test_a_ply_that_the_validator_takes(info, tmp_path: Path) -> None:
    path = tmp_path / "line.ply"
    path.write_bytes(ply.to_bytes(line_of(7000)))
    code, lines, errors = info(path)
    assert (code, errors) == (0, "")
    assert lines["file"] == f"{path}, {path.stat().st_size} bytes"
    assert lines["format"] == "PLY, binary, little endian"
    assert lines["properties"].startswith("x y z nx ny nz f_dc_0")
    assert lines["gaussians"] == "7000"
    assert lines["opacity"] == "0.0000 to 1.0000, mean 0.5000"
    assert lines["transparent"] == "50.00 % below 0.001"
    assert lines["box"] == "(-0.2500, 0.0000, 0.0000) to (0.5000, 0.0000, 0.0000), volume 0"
    assert lines["scale"] == "5 % 0.01, median 0.01, 95 % 0.01"
    assert lines["validator"] == "accepted"


def test_an_spz_that_the_validator_refuses(info, tmp_path: Path) -> None:
    path = tmp_path / "line.spz"
    path.write_bytes(spz.to_bytes(line_of(6998)))
    code, lines, _ = info(path)
    assert code == 0
    assert lines["format"] == "SPZ version 2, 12 fractional bits"
    assert lines["raw size"].startswith(f"{16 + 19 * 6998} bytes, compressed to ")
    assert lines["validator"] == "refused: 6998 gaussians; the validator asks for at least 7000"


def test_harmonics_and_flags_are_shown(info) -> None:
    _, lines, _ = info(GOLDEN / "sh2.spz")
    assert lines["harmonics"] == "degree 2, 8 coefficients a channel"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"ply\n", "a.ply: not a PLY"),
        ("a.spz", b"", "a.spz: not an SPZ"),
        ("a.spz", None, "a.spz: No such file or directory"),
        ("a.glb", b"glTF", "expected a name that ends in .ply or .spz"),
    ],
)
def test_bad_input_is_one_line_and_code_2(info, tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, lines, errors = info(tmp_path / name)
    assert (code, lines) == (2, {})
    assert message in errors.splitlines()[-1]
    assert "Traceback" not in errors
