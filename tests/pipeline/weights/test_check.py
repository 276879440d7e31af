"""Weights that are checked without a network."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.weights.check import check_weights
from pipeline.weights.locate import locate_network
from tests.pipeline.weights.conftest import CLIP, DINO, EMBEDDED, IMAGE, NETWORK, TEXT
from tests.support.fake_hub import FakeHub

ROLES = ["sparse_structure_flow_model", "sparse_structure_decoder", "slat_flow_model", "slat_decoder_gs"]


def test_the_phase_of_the_settings_file_is_checked_unless_another_is_named(
    check: Callable[..., Result], phase: Callable[..., str]
) -> None:
    phase("embedded", "embedded-text")
    result = check()
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert len(lines) == 11
    assert all(": ok, " in line for line in lines)
    assert lines[0] == f"image.checkpoint, {ROLES[0]}: ok, {locate_network('ckpts/ss_flow_tiny', EMBEDDED)}"
    assert lines[4].startswith("image.checkpoint, image_cond_model: ok, ")
    assert lines[9].startswith("text.checkpoint, text_cond_model: ok, ")
    assert lines[10].startswith("background.model, background model: ok, ")
    assert check("--phase", "mine").stdout == result.stdout
    result = check("--phase", "other")
    assert result.exit_code == 2
    assert "there is no phase 'other'" in result.stderr


def test_what_was_downloaded_is_usable_and_the_hub_is_not_asked(
    hub: FakeHub, download: Callable[..., Result], check: Callable[..., Result], phase: Callable[..., str]
) -> None:
    result = check("--phase", phase())
    assert result.exit_code == 2
    assert f"image.checkpoint, checkpoint: not usable: the weights {IMAGE} are not on this machine" in result.stdout
    assert "run `sn17-miner weights download --phase mine --config " in result.stderr
    assert download("--phase", "mine").exit_code == 0
    asked = len(hub.requests)
    result = check()
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count(": ok, ") == 11
    assert len(hub.requests) == asked


@pytest.mark.parametrize("to", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "part", "problem"),
    [
        ("slat_flow_tiny.safetensors", None, "slat_flow_model", "slat_flow_tiny.safetensors is missing"),
        ("slat_flow_tiny.safetensors", b"junk", "slat_flow_model", "is damaged or not a safetensors file"),
        ("slat_flow_tiny.safetensors", -1, "slat_flow_model", "is damaged or not a safetensors file"),
        ("slat_flow_tiny.json", b"{", "slat_flow_model", "slat_flow_tiny.json cannot be read"),
        ("pipeline.json", b"{}", "checkpoint", "pipeline.json lacks the key 'args'"),
        ("model.safetensors", None, "image_cond_model", "model.safetensors is missing"),
    ],
)
def test_missing_and_damaged_files_are_named(
    hub: FakeHub,
    download: Callable[..., Result],
    check: Callable[..., Result],
    tmp_path: Path,
    to: bool,
    name: str,
    content: bytes | int | None,
    part: str,
    problem: str,
) -> None:
    folder = tmp_path / "w"
    assert download(IMAGE, *(("--to", folder) if to else ())).exit_code == 0
    (path,) = (folder if to else tmp_path / "cache").rglob(name)
    if content is None:
        path.unlink()
    elif isinstance(content, int):
        path.write_bytes(path.read_bytes()[:content])
    else:
        path.write_bytes(content)
    reference = str(folder) if to else IMAGE
    result = check(reference)
    assert result.exit_code == 2
    (line,) = (line for line in result.stdout.splitlines() if ": ok, " not in line)
    assert line.startswith(f"{reference}, {part}: not usable: ")
    assert problem in line
    assert result.stderr.endswith(f"run `sn17-miner weights download {reference}`\n")


@pytest.mark.parametrize("name", ["/nowhere/weights", "u2nett"])
def test_a_name_that_nothing_can_be_downloaded_under_gets_no_such_advice(
    check: Callable[..., Result], name: str
) -> None:
    result = check(name)
    assert result.exit_code == 2
    assert result.stderr == "ERROR: weights are missing or damaged: correct the names above\n"


def test_networks_encoders_and_overrides(hub: FakeHub, download: Callable[..., Result], tmp_path: Path) -> None:
    (missing,) = check_weights(NETWORK)
    assert (missing.name, missing.path) == ("network", None)
    assert f"run `sn17-miner weights download {NETWORK}`" in missing.problem
    assert download(NETWORK, CLIP, DINO).exit_code == 0
    for reference, name in ((NETWORK, "network"), (CLIP, "encoder"), (DINO, "encoder")):
        (found,) = check_weights(reference)
        assert (found.name, found.problem) == (name, "")
    parts = check_weights("embedded", {"slat_flow_model": NETWORK})
    assert [part.name for part in parts] == [*ROLES, "image_cond_model"]
    assert not any(part.problem for part in parts)
    assert parts[2].path is not None
    assert parts[2].path.is_relative_to(tmp_path)
    absent = check_weights("embedded", {"slat_flow_model": "nowhere/at/all"})[2]
    assert "the weights nowhere/at/all are not on this machine" in absent.problem


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    for name in ("pipeline.json", "ckpts/ss_flow_tiny.json", "ckpts/ss_flow_tiny.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((EMBEDDED / name).read_bytes())
    (tmp_path / "ckpts/ss_flow_tiny.safetensors").rename(tmp_path / "ckpts/ss_flow_tiny.pt")
    assert "ss_flow_tiny.pt is a pickle" in check_weights(str(tmp_path))[0].problem


@pytest.mark.parametrize("reference", ["nowhere", "/nowhere/at/all", "no name/at all!", TEXT])
def test_what_is_not_there_is_one_problem(cache: Path, reference: str) -> None:
    (missing,) = check_weights(reference)
    assert missing.problem
