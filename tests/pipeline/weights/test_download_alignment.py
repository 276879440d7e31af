"""What the parts of the score need beside the quality network."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from pipeline.scoring.image_alignment import ImageAlignment
from pipeline.scoring.text_alignment import TextAlignment
from pipeline.scoring.view_similarity import ViewSimilarity
from pipeline.weights import alexnet
from pipeline.weights.alexnet import locate_alexnet
from pipeline.weights.scorers import IMAGE_ALIGNMENT, LPIPS, TEXT_ALIGNMENT
from tests.pipeline.weights.conftest import CPU, files
from tests.support.alignment_checkpoints import write_image_alignment, write_text_alignment
from tests.support.fake_hub import FakeHub, damaged
from tests.support.formula_weights import SCORE_DATA, formula_weights, golden_shapes

PARTS = "scorer: {parts: [alignment, similarity]}\n"
LAION, MICROSOFT = TEXT_ALIGNMENT, IMAGE_ALIGNMENT.partition("@")[0]
TEXT_FILES = {"open_clip_config.json", "open_clip_model.safetensors", "vocab.json", "merges.txt"}
IMAGE_FILES = {"config.json", "model.safetensors"}


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return (
        write_text_alignment(tmp_path_factory.mktemp("text")),
        write_image_alignment(tmp_path_factory.mktemp("image")),
    )


@pytest.fixture
def published(
    hub: FakeHub, networks: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """All networks where they are published, beside files that are not needed; returns what the last server has."""
    for repository, folder in zip((LAION, MICROSOFT), networks, strict=True):
        hub.add(repository, folder)
    hub.repositories[LAION] |= {"open_clip_pytorch_model.bin": b"large", "tokenizer.json": b"{}", "config.json": b"{}"}
    hub.repositories[MICROSOFT] |= {"modeling_clip.py": b"raise SystemExit", "openai.pth": b"large"}
    commit = IMAGE_ALIGNMENT.partition("@")[2]
    hub.commits[commit] = commit
    content = io.BytesIO()
    torch.save(formula_weights(golden_shapes("lpips")), content)
    checksum = hashlib.sha256(content.getvalue()).hexdigest()
    hub.repositories["elsewhere"] = {LPIPS: content.getvalue()}
    monkeypatch.setattr(alexnet, "ALEXNET_URL", f"{hub.storage}/{checksum}")
    monkeypatch.setattr(alexnet, "ALEXNET_SHA256", checksum)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return hub.repositories["elsewhere"]


def load_all(text: str, image: str, convolutions: str = LPIPS) -> None:
    TextAlignment.load(text, CPU)
    ImageAlignment.load(image, CPU)
    ViewSimilarity.load(locate_alexnet(convolutions), CPU)


def leave_out(phase_file: Path, section: str) -> None:
    lines = phase_file.read_text().splitlines(keepends=True)
    phase_file.write_text("".join(line for line in lines if not line.startswith(section)))


def test_a_phase_gets_what_its_parts_need(
    hub: FakeHub,
    published: object,
    download: Callable[..., Result],
    check: Callable[..., Result],
    phase: Callable[..., str],
) -> None:
    name = phase("embedded", "embedded-text", more=PARTS)
    missing = check("--phase", name)
    assert missing.exit_code == 2
    assert [line.partition(",")[0] for line in missing.stdout.splitlines() if "not usable" in line] == [
        "scorer.text_alignment",
        "scorer.image_alignment",
        "scorer.lpips",
    ]
    assert download("--phase", name).exit_code == 0
    wanted = {f"{LAION}/{file}" for file in TEXT_FILES} | {f"{MICROSOFT}/{file}" for file in IMAGE_FILES}
    # The server that has the content of large files knows no repositories.
    assert hub.fetched() == wanted | {"open_clip_model.safetensors", "model.safetensors", LPIPS}
    load_all(TEXT_ALIGNMENT, IMAGE_ALIGNMENT)
    result = check("--phase", name)
    assert result.exit_code == 0
    for line in ("text_alignment, CLIP", "image_alignment, encoder", "lpips, AlexNet"):
        assert f"scorer.{line}: ok, " in result.stdout
    asked = len(hub.requests)
    assert download("--phase", name).exit_code == 0
    assert all(request.method == "HEAD" for request in hub.requests[asked:])


@pytest.mark.parametrize(("without", "repository"), [("text", MICROSOFT), ("image", LAION)])
def test_a_phase_without_one_kind_of_prompts_needs_one_network(
    hub: FakeHub,
    published: object,
    download: Callable[..., Result],
    phase: Callable[..., str],
    config: Path,
    without: str,
    repository: str,
) -> None:
    phase("embedded", "embedded-text", more="scorer: {parts: [alignment]}\n")
    leave_out(config.parent / "phases" / "mine.yaml", without)
    assert download("--phase", "mine").exit_code == 0
    assert {request.path.rpartition("/")[0] for request in hub.requests} - {""} == {repository}


def test_a_phase_that_scores_quality_alone_gets_none_of_them(
    hub: FakeHub, published: object, check: Callable[..., Result], phase: Callable[..., str]
) -> None:
    phase("embedded", "embedded-text", more="scorer: {}\n")
    keys = {line.partition(",")[0] for line in check().stdout.splitlines()}
    assert {key for key in keys if key.startswith("scorer.")} == {"scorer.weights"}


def test_plain_directories(
    hub: FakeHub,
    published: object,
    download: Callable[..., Result],
    check: Callable[..., Result],
    phase: Callable[..., str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "all"
    result = download("--phase", phase("embedded", "embedded-text", more=PARTS), "--to", folder)
    assert result.exit_code == 0
    text, image = folder / "text_alignment", folder / "image_alignment"
    assert (files(text), files(image)) == (TEXT_FILES, IMAGE_FILES)
    assert f"set scorer.text_alignment of phase mine to {text}" in result.stdout
    assert f"set scorer.image_alignment of phase mine to {image}" in result.stdout
    assert "scorer.lpips" not in result.stdout
    named = f"{PARTS[:-2]}, text_alignment: {text}, image_alignment: {image}}}\n"
    phase("embedded", "embedded-text", more=named)
    load_all(str(text), str(image))
    assert check().exit_code == 0
    # A directory needs nothing more.
    asked = len(hub.requests)
    assert download("--phase", "mine").exit_code == 0
    assert len(hub.requests) == asked
    (text / "merges.txt").unlink()
    result = check()
    assert result.exit_code == 2
    assert "scorer.text_alignment, CLIP: not usable" in result.stdout
    assert "merges.txt is missing" in result.stdout


def test_one_of_them_alone(
    hub: FakeHub, published: object, download: Callable[..., Result], check: Callable[..., Result], tmp_path: Path
) -> None:
    content = json.loads((SCORE_DATA / "clip_tokens.json").read_text())
    model = {"vocab": content["vocabulary"], "merges": content["merges"]}
    hub.repositories[LAION]["tokenizer.json"] = json.dumps({"model": model}).encode()
    for name in ("vocab.json", "merges.txt"):
        del hub.repositories[LAION][name]
    assert download(TEXT_ALIGNMENT, "--to", tmp_path / "there").exit_code == 0
    assert "tokenizer.json" in files(tmp_path / "there")
    TextAlignment.load(str(tmp_path / "there"), CPU)
    assert download(TEXT_ALIGNMENT).exit_code == 0
    assert check(TEXT_ALIGNMENT).exit_code == 0


def test_pickles_are_no_substitute(hub: FakeHub, published: object, download: Callable[..., Result]) -> None:
    del hub.repositories[LAION]["open_clip_model.safetensors"]
    result = download(TEXT_ALIGNMENT)
    assert result.exit_code == 2
    assert f"{LAION} has no open_clip_model.safetensors; pickled weights are not used" in result.stderr


def test_a_damaged_cache_names_what_repairs_it(
    published: object, download: Callable[..., Result], check: Callable[..., Result], cache: Path
) -> None:
    assert download(TEXT_ALIGNMENT, IMAGE_ALIGNMENT).exit_code == 0
    for name in ("open_clip_model.safetensors", "model.safetensors"):
        (link,) = cache.rglob(name)
        link.resolve().unlink()
    result = check(TEXT_ALIGNMENT, IMAGE_ALIGNMENT)
    assert result.exit_code == 2
    for reference in (TEXT_ALIGNMENT, IMAGE_ALIGNMENT):
        assert f"is gone: run `sn17-miner weights download {reference}`" in result.stdout


def test_alexnet_that_arrives_damaged_is_not_kept(
    hub: FakeHub, published: object, download: Callable[..., Result], check: Callable[..., Result], tmp_path: Path
) -> None:
    hub.faults[LPIPS] = [damaged]
    result = download(LPIPS)
    assert result.exit_code == 1
    assert "arrived damaged" in result.stderr
    assert files(tmp_path / "torch") == set()
    assert f"run `sn17-miner weights download {LPIPS}`" in check(LPIPS).stdout
    assert download(LPIPS).exit_code == 0
    assert check(LPIPS).exit_code == 0


def test_alexnet_cannot_be_fetched(
    hub: FakeHub, published: dict[str, bytes], download: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alexnet, "ALEXNET_URL", "http://127.0.0.1:1/alexnet.pth")
    result = download(LPIPS)
    assert result.exit_code == 1
    assert "http://127.0.0.1:1/alexnet.pth cannot be downloaded" in result.stderr


def test_another_file_of_that_name_is_refused(
    published: object, download: Callable[..., Result], check: Callable[..., Result], tmp_path: Path
) -> None:
    path = tmp_path / "torch" / "hub" / "checkpoints" / LPIPS
    path.parent.mkdir(parents=True)
    path.write_bytes(b"other")
    for result in (download(LPIPS), check(LPIPS)):
        assert result.exit_code == 2
        assert f"{path} is not the file that is published as " in result.output
        assert f"delete it and run `sn17-miner weights download {LPIPS}`" in result.output


def test_a_file_of_the_operators_is_checked(
    published: dict[str, bytes], check: Callable[..., Result], download: Callable[..., Result], tmp_path: Path
) -> None:
    own = tmp_path / "alexnet.safetensors"
    result = check(str(own))
    assert result.exit_code == 2
    assert f"{own} is missing: name a file, or {LPIPS}" in result.stdout
    own.write_bytes(b"junk")
    assert "is damaged or not a safetensors file" in check(str(own)).stdout
    pickle = tmp_path / "alexnet.pth"
    pickle.write_bytes(published[LPIPS])
    assert check(str(pickle)).exit_code == 0
    assert download(str(pickle)).exit_code == 0


@pytest.mark.parametrize("name", ["own.safetensors", "convolutions.bin"])
def test_a_file_of_any_name_that_the_scorer_takes_is_no_mistake(
    published: dict[str, bytes],
    check: Callable[..., Result],
    download: Callable[..., Result],
    tmp_path: Path,
    name: str,
) -> None:
    own = tmp_path / name
    if own.suffix == ".safetensors":
        assert f"{own} is missing: name a file, or {LPIPS}" in check(str(own)).stdout
        assert f"{own} is missing: name a file, or {LPIPS}" in download(str(own)).stderr
        save_file(formula_weights(golden_shapes("lpips")), own)
    else:
        own.write_bytes(published[LPIPS])
    ViewSimilarity.load(locate_alexnet(str(own)), CPU)
    assert f"AlexNet: ok, {own}" in check(str(own)).stdout
    assert download(str(own)).exit_code == 0


def test_a_file_that_is_not_alexnet(check: Callable[..., Result], tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_file({"bias": torch.zeros(1)}, other)
    assert f"{other} is not AlexNet: it has no tensor features.0.weight" in check(str(other)).stdout
    pickle = tmp_path / "other.pth"
    pickle.write_bytes(b"mine")
    assert f"name a safetensors file, or {LPIPS}, which" in check(str(pickle)).stdout
