import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import ply, spz
from pipeline.splats.splats import Splats
from tests.support.cli import run
from tests.support.paths import DATA
from tests.support.splat_corpus import cloud
from tests.support.splat_files import compressed_ply, niantic_spz

GOLDEN = DATA / "spz"


def info(path: Path) -> tuple[int, dict[str, str], str]:
    """Describe a file; returns the exit code, the lines by their name and what is on stderr."""
    result = run("splats", "info", path)
    return result.exit_code, {line[:12].strip(): line[13:] for line in result.stdout.splitlines()}, result.stderr


def line_of(n: int) -> Splats:
    """Gaussians on a line along x from -0.25 to 0.5, half of them opaque, standard deviation 0.01."""
    return Splats(
        means=torch.stack([torch.linspace(-0.25, 0.5, n), torch.zeros(n), torch.zeros(n)], dim=1),
        quaternions=torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat(n, 1),
        log_scales=torch.full((n, 3), math.log(0.01)),
        opacity_logits=torch.tensor([math.inf, -math.inf]).repeat(n // 2),
        f_dc=torch.zeros(n, 3),
    )


def test_a_ply_that_the_validator_takes(tmp_path: Path) -> None:
    path = tmp_path / "line.ply"
    path.write_bytes(ply.to_bytes(line_of(7000)))
    code, lines, errors = info(path)
    assert (code, errors) == (0, "")
    assert lines["file"] == f"{path}, {path.stat().st_size} bytes"
    assert lines["format"] == "PLY, binary little endian"
    assert lines["properties"].startswith("x y z nx ny nz f_dc_0")
    assert lines["gaussians"] == "7000"
    assert lines["opacity"] == "0.0000 to 1.0000, mean 0.5000"
    assert lines["transparent"] == "50.00 % below 0.001"
    assert lines["box"] == "(-0.2500, 0.0000, 0.0000) to (0.5000, 0.0000, 0.0000), volume 0"
    assert lines["scale"] == "5 % 0.01, median 0.01, 95 % 0.01"
    assert lines["validator"] == "accepted"


def test_an_spz_that_the_validator_refuses(tmp_path: Path) -> None:
    path = tmp_path / "line.spz"
    path.write_bytes(spz.to_bytes(line_of(6998)))
    code, lines, _ = info(path)
    assert code == 0
    assert lines["format"] == "SPZ version 2, 12 fractional bits"
    assert lines["raw size"].startswith(f"{16 + 19 * 6998} bytes, compressed to ")
    assert lines["validator"] == "refused: 6998 gaussians; the validator asks for at least 7000"


def test_harmonics_and_flags_are_shown() -> None:
    _, lines, _ = info(GOLDEN / "sh2.spz")
    assert lines["harmonics"] == "degree 2, 8 coefficients a channel"


def test_values_that_are_no_numbers_are_counted(tmp_path: Path) -> None:
    splats = line_of(7000)
    splats.means[3, 1] = math.nan
    splats.f_dc[:5, 2] = math.inf
    splats.quaternions[7:9] = 0.0
    path = tmp_path / "spoiled.ply"
    path.write_bytes(ply.to_bytes(splats))
    code, lines, _ = info(path)
    assert code == 0
    assert lines["non-finite"] == (
        "means 1 NaN, 0 infinite; opacity_logits 0 NaN, 7000 infinite (opacity 0 or 1); f_dc 0 NaN, 5 infinite"
    )
    assert lines["rotations"] == "2 of length zero"
    assert lines["validator"] == "accepted"


def test_a_file_without_defects_says_so() -> None:
    _, lines, _ = info(GOLDEN / "n7.ply")
    assert (lines["non-finite"], lines["rotations"]) == ("none", "0 of length zero")


@pytest.mark.parametrize(
    ("name", "data", "form"),
    [
        ("a.spz", niantic_spz(cloud(), 3), "SPZ version 3, 12 fractional bits, gzip as by nianticlabs/spz"),
        ("a.spz", niantic_spz(cloud(), 4), "SPZ version 4, 12 fractional bits, zstd streams as by nianticlabs/spz"),
        ("a.compressed.ply", compressed_ply(cloud()), "PLY, binary little endian, compressed as by SuperSplat"),
    ],
)
def test_formats_of_other_programs_are_told(tmp_path: Path, name: str, data: bytes, form: str) -> None:
    (tmp_path / name).write_bytes(data)
    code, lines, errors = info(tmp_path / name)
    assert (code, errors) == (0, "")
    assert (lines["format"], lines["gaussians"]) == (form, "6")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ply", b"ply\n", "a.ply: not a PLY"),
        (
            "a.ply",
            b"version https://git-lfs.github.com/spec/v1\n",
            "not a PLY but a Git LFS pointer: run `git lfs pull`",
        ),
        ("a.spz", b"", "a.spz: not an SPZ"),
        ("a.spz", None, "a.spz: No such file or directory"),
        ("a.glb", b"glTF", "expected a name that ends in .ply or .spz"),
    ],
)
def test_bad_input_is_one_line_and_code_2(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    code, lines, errors = info(tmp_path / name)
    assert (code, lines) == (2, {})
    assert message in errors.splitlines()[-1]


@pytest.fixture
def pole(tmp_path: Path) -> Path:
    """A vertical pole whose upper end is red and whose lower end is blue, as validators see it."""
    n = 400
    height = torch.linspace(-0.5, 0.5, n)
    red, blue = torch.tensor([1.5, -1.5, -1.5]), torch.tensor([-1.5, -1.5, 1.5])
    splats = Splats(
        means=torch.stack([torch.zeros(n), height, torch.zeros(n)], dim=1),
        quaternions=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(n, 1),
        log_scales=torch.full((n, 3), math.log(0.03)),
        opacity_logits=torch.full((n,), 4.0),
        f_dc=torch.where(height[:, None] > 0, red, blue),
    )
    path = tmp_path / "pole.ply"
    path.write_bytes(ply.to_bytes(splats))
    return path


@pytest.mark.parametrize(("views", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (4, 4, 1), (5, 3, 2), (9, 3, 3)])
def test_views_are_drawn_upright_on_white(pole: Path, tmp_path: Path, views: int, columns: int, rows: int) -> None:
    out = tmp_path / "views.png"
    result = run("splats", "render", pole, "-o", out, "--views", views, "--size", 48, "--up", "y")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{out}: {views} view{'s' * (views > 1)} of 400 gaussians\n"
    with Image.open(out) as picture:
        assert (picture.format, picture.size) == ("PNG", (columns * 48, rows * 48))
        pixels = np.array(picture.convert("RGB")).astype(int)
    for index in range(columns * rows):
        left, top = index % columns * 48, index // columns * 48
        view = pixels[top : top + 48, left : left + 48]
        assert (view[0, 0] == 255).all()
        upper, lower = view[12, 24], view[36, 24]
        if index < views:
            assert upper[0] > upper[2] + 100
            assert lower[2] > lower[0] + 100
        else:
            assert (view == 255).all()


def test_a_picture_needs_a_known_ending(pole: Path, tmp_path: Path) -> None:
    result = run("splats", "render", pole, "-o", tmp_path / "views.xyz", "--size", 16)
    assert result.exit_code == 2
    assert "views.xyz: expected a name that ends in .png" in result.stderr


@pytest.mark.parametrize("up", ["y", "-y"])
def test_splats_with_harmonics_are_drawn(tmp_path: Path, up: str) -> None:
    out = tmp_path / "views.png"
    assert run("splats", "render", GOLDEN / "sh3.ply", "-o", out, "--size", 16, "--up", up).exit_code == 0
    assert out.exists()


def test_a_drawing_does_not_replace_what_is_drawn(pole: Path, tmp_path: Path) -> None:
    content = pole.read_bytes()
    (tmp_path / "views.png").symlink_to(pole)
    result = run("splats", "render", pole, "-o", tmp_path / "views.png", "--size", 16)
    assert result.exit_code == 2
    assert "FILE and --output are the same file" in result.stderr
    assert pole.read_bytes() == content


def test_gaussians_that_cannot_be_drawn_do_not_hide_the_others(pole: Path, tmp_path: Path) -> None:
    splats = ply.from_bytes(pole.read_bytes())
    # 1e30 in each is the rotation of 0.5 in each.
    same = torch.full_like(splats.quaternions, 0.5)
    pole.write_bytes(ply.to_bytes(replace(splats, quaternions=same)))
    assert run("splats", "render", pole, "-o", tmp_path / "a.png", "--size", 32).exit_code == 0
    means = torch.cat([splats.means, torch.full((1, 3), math.nan)])
    more = {name: torch.cat([x, x[:1]]) for name, x in splats.tensors().items()}
    pole.write_bytes(ply.to_bytes(Splats(**more | {"means": means, "quaternions": torch.full((401, 4), 1e30)})))
    assert run("splats", "render", pole, "-o", tmp_path / "b.png", "--size", 32).exit_code == 0
    with Image.open(tmp_path / "a.png") as expected, Image.open(tmp_path / "b.png") as found:
        assert np.array_equal(found, expected)
        assert np.asarray(found).min() < 128
