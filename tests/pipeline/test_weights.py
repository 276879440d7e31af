from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.weights import EMBEDDED, locate, locate_image_encoder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(cache: Path, repository: str, file: str) -> Path:
    """Lay a file out as `hf download` does."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    (snapshot / file).write_text("{}")
    return snapshot


def test_the_embedded_checkpoint_is_there() -> None:
    directory = locate(EMBEDDED, "pipeline.json")
    assert (directory / "pipeline.json").is_file()
    assert locate_image_encoder("image_encoder", directory) == directory / "image_encoder"


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text("{}")
    assert locate(str(tmp_path), "pipeline.json") == tmp_path


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pipeline.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/weights", "pipeline.json") == tmp_path / "weights"


def test_a_directory_without_the_marker_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no pipeline\.json") as caught:
        locate(str(tmp_path), "pipeline.json")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "./nowhere/here", "../nowhere", "~/nowhere", "nowhere"])
def test_a_directory_that_does_not_exist_is_named(reference: str) -> None:
    with pytest.raises(CheckpointError, match=r"the checkpoint directory .*nowhere.* does not exist"):
        locate(reference, "pipeline.json")


def test_an_id_that_is_not_downloaded_names_the_command(cache: Path) -> None:
    with pytest.raises(CheckpointError, match="run `hf download microsoft/TRELLIS-image-large`"):
        locate("microsoft/TRELLIS-image-large", "pipeline.json")


def test_a_downloaded_id_is_found(cache: Path) -> None:
    snapshot = download(cache, "microsoft/TRELLIS-image-large", "pipeline.json")
    assert locate("microsoft/TRELLIS-image-large", "pipeline.json") == snapshot


@pytest.mark.parametrize("reference", ["my weights/large!", "a--b/c", "weights/"])
def test_what_is_neither_directory_nor_id_is_refused(reference: str, cache: Path) -> None:
    with pytest.raises(CheckpointError, match="is neither a directory nor a Hugging Face id"):
        locate(reference, "pipeline.json")


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("dinov2_vits14_reg", "facebook/dinov2-with-registers-small"),
        ("dinov2_vitb14_reg", "facebook/dinov2-with-registers-base"),
        ("dinov2_vitl14_reg", "facebook/dinov2-with-registers-large"),
        ("dinov2_vitg14_reg", "facebook/dinov2-with-registers-giant"),
        ("somebody/their-encoder", "somebody/their-encoder"),
    ],
)
def test_an_image_encoder_goes_by_upstream_s_name_or_an_id(
    name: str, repository: str, cache: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"run `hf download {repository}`"):
        locate_image_encoder(name, tmp_path)
    snapshot = download(cache, repository, "config.json")
    assert locate_image_encoder(name, tmp_path) == snapshot


def test_an_image_encoder_beside_the_checkpoint_comes_first(cache: Path, tmp_path: Path) -> None:
    download(cache, "facebook/dinov2-with-registers-large", "config.json")
    beside = tmp_path / "dinov2_vitl14_reg"
    beside.mkdir()
    (beside / "config.json").write_text("{}")
    assert locate_image_encoder("dinov2_vitl14_reg", tmp_path) == beside


def test_an_image_encoder_in_a_directory_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    assert locate_image_encoder(str(own), tmp_path / "checkpoint") == own


def test_a_checkpoint_without_an_image_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pipeline\.json names no image encoder \(image_cond_model\)"):
        locate_image_encoder("", tmp_path)
