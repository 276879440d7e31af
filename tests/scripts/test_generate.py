from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline import ply, spz
from scripts.generate import main


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (16, 16, 48, 48))
    image.save(tmp_path / "red.png")
    return tmp_path / "red.png"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["generate.py", *map(str, arguments)])
    return main()


def test_a_picture_becomes_files_and_figures(
    monkeypatch: pytest.MonkeyPatch, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (picture, "--phase", "demo", "--seed", 3, "--device", "cpu")
    assert run(monkeypatch, *common, "-o", tmp_path / "a.ply", "--sheet", tmp_path / "a.png") == 0
    assert run(monkeypatch, *common, "-o", tmp_path / "a.spz") == 0
    cloud, packed = (
        ply.from_bytes((tmp_path / "a.ply").read_bytes()),
        spz.from_bytes((tmp_path / "a.spz").read_bytes()),
    )
    assert len(cloud) == len(packed) >= 7000
    assert float((cloud.means - packed.means).abs().max()) <= 2**-13
    assert (tmp_path / "a.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert f"{len(cloud)} gaussians" in out
    assert "seed 3," in out
    assert "find it valid" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.png", "--phase", "demo"), "missing.png cannot be read"),
        ((__file__, "--phase", "demo"), "not an image"),
        (("PICTURE", "--phase", "none"), "no phase 'none'"),
        (("PICTURE", "--phase", "demo", "--checkpoint", "/nowhere"), "/nowhere"),
    ],
)
def test_mistakes_are_named(
    monkeypatch: pytest.MonkeyPatch,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert run(monkeypatch, *(str(picture) if a == "PICTURE" else a for a in arguments)) == 2
    assert message in capsys.readouterr().err


def test_a_sentence_is_a_prompt(
    monkeypatch: pytest.MonkeyPatch, tiny_text_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sheet = tmp_path / "chair.ply", tmp_path / "sheet.png"
    arguments = ("a red", "chair", "--checkpoint", tiny_text_checkpoint, "--phase", "demo", "--seed", 5, "-o", out)
    assert run(monkeypatch, *arguments, "--sheet", sheet, "--device", "cpu") == 0
    assert len(ply.from_bytes(out.read_bytes())) >= 7000
    with Image.open(sheet) as opened:
        assert opened.width > 1000
    assert "background 0.00" in capsys.readouterr().out


def test_several_pictures_are_one_prompt(monkeypatch: pytest.MonkeyPatch, picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    image = Image.new("RGBA", (64, 64))
    image.paste((20, 30, 200, 255), (8, 28, 56, 36))
    image.save(other)
    clouds = []
    for pictures in ((picture, other), (picture,)):
        out = tmp_path / "out.ply"
        arguments = (
            *pictures,
            "--combine",
            "multidiffusion",
            "--phase",
            "demo",
            "--seed",
            5,
            "--device",
            "cpu",
            "-o",
            out,
        )
        assert run(monkeypatch, *arguments) == 0
        clouds.append(ply.from_bytes(out.read_bytes()))
    assert len(clouds[0]) != len(clouds[1]) or not bool((clouds[0].means == clouds[1].means).all())


def test_a_phase_without_text_checkpoint_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "a red chair", "--phase", "demo", "--device", "cpu") == 2
    assert "the phase has no text.checkpoint: name one with --checkpoint" in capsys.readouterr().err
