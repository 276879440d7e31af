import json
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.weights.locate import (
    EMBEDDED,
    EMBEDDED_TEXT,
    SCORER,
    SCORER_FILE,
    HubReference,
    locate,
    locate_encoder,
    locate_network,
    locate_scorer,
    refuse_pickle,
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(cache: Path, repository: str, file: str, revision: str = "main", commit: str = "0123abcd") -> Path:
    """Lay a file out as `hf download` does."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    (snapshot / file).write_text("{}")
    return snapshot


def test_the_embedded_checkpoint_is_there() -> None:
    directory = locate(EMBEDDED, "pipeline.json")
    assert (directory / "pipeline.json").is_file()
    assert locate_encoder("image_encoder", "image_cond_model", directory) == directory / "image_encoder"


def test_the_embedded_checkpoint_for_sentences_takes_the_networks_of_the_other() -> None:
    directory = locate(EMBEDDED_TEXT, "pipeline.json")
    assert locate_encoder("text_encoder", "text_cond_model", directory) == directory / "text_encoder"
    models = json.loads((directory / "pipeline.json").read_text())["args"]["models"]
    found = {locate_network(reference, directory).resolve().parent for reference in models.values()}
    assert found == {(locate(EMBEDDED, "pipeline.json") / "ckpts").resolve()}


def test_the_embedded_checkpoints_are_small() -> None:
    folder = locate(EMBEDDED, "pipeline.json").parent
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) <= 16_000_000


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "pipeline.json").write_text("{}")
    assert locate(str(tmp_path), "pipeline.json") == tmp_path


def test_a_home_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "pipeline.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/weights", "pipeline.json") == tmp_path / "weights"


def test_a_directory_without_the_marker_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a checkpoint: it has no pipeline\.json") as caught:
        locate(str(tmp_path), "pipeline.json")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("reference", ["/nowhere/at/all", "./nowhere/here", "../nowhere", "~/nowhere", "nowhere"])
def test_a_directory_that_does_not_exist_is_named(reference: str) -> None:
    with pytest.raises(CheckpointError, match=r"the checkpoint directory .*nowhere.* does not exist"):
        locate(reference, "pipeline.json")


def test_an_id_that_is_not_downloaded_names_the_command(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run `sn17-miner weights download microsoft/TRELLIS-image-large`"):
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
    with pytest.raises(CheckpointError, match=f"run `sn17-miner weights download {repository}`"):
        locate_encoder(name, "image_cond_model", tmp_path)
    snapshot = download(cache, repository, "config.json")
    assert locate_encoder(name, "image_cond_model", tmp_path) == snapshot


def test_an_image_encoder_beside_the_checkpoint_comes_first(cache: Path, tmp_path: Path) -> None:
    download(cache, "facebook/dinov2-with-registers-large", "config.json")
    beside = tmp_path / "dinov2_vitl14_reg"
    beside.mkdir()
    (beside / "config.json").write_text("{}")
    assert locate_encoder("dinov2_vitl14_reg", "image_cond_model", tmp_path) == beside


def test_an_image_encoder_in_a_directory_of_its_own(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text("{}")
    assert locate_encoder(str(own), "image_cond_model", tmp_path / "checkpoint") == own


def test_a_checkpoint_without_an_image_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pipeline\.json names no image encoder \(image_cond_model\)"):
        locate_encoder("", "image_cond_model", tmp_path)


def test_a_text_encoder_goes_by_its_id(cache: Path, tmp_path: Path) -> None:
    name = "openai/clip-vit-large-patch14"
    with pytest.raises(CheckpointError, match=f"run `sn17-miner weights download {name}`"):
        locate_encoder(name, "text_cond_model", tmp_path)
    snapshot = download(cache, name, "config.json")
    assert locate_encoder(name, "text_cond_model", tmp_path) == snapshot
    beside = tmp_path / "openai" / "clip-vit-large-patch14"
    beside.mkdir(parents=True)
    (beside / "config.json").write_text("{}")
    assert locate_encoder(name, "text_cond_model", tmp_path) == beside


def test_a_checkpoint_without_a_text_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pipeline\.json names no text encoder \(text_cond_model\)"):
        locate_encoder("", "text_cond_model", tmp_path)


@pytest.mark.parametrize("revision", ["old", "a" * 40])
def test_a_revision_is_a_branch_or_a_commit(cache: Path, revision: str) -> None:
    newest = download(cache, "org/name", "pipeline.json")
    older = download(cache, "org/name", "pipeline.json", "old", "a" * 40)
    assert locate("org/name", "pipeline.json") == newest
    assert locate(f"org/name@{revision}", "pipeline.json") == older != newest


def test_a_revision_that_is_not_downloaded_names_the_command(cache: Path) -> None:
    download(cache, "org/name", "pipeline.json")
    with pytest.raises(CheckpointError, match=r"run `sn17-miner weights download org/name@v2`"):
        locate("org/name@v2", "pipeline.json")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("org/name", HubReference("org/name", "", None)),
        ("org/name@v1", HubReference("org/name", "", "v1")),
        ("org/name/ckpts/flow", HubReference("org/name", "ckpts/flow", None)),
        ("org/name/ckpts/flow@refs/pr/1", HubReference("org/name", "ckpts/flow", "refs/pr/1")),
        ("name", None),
        ("/org/name", None),
        ("./org/name", None),
        ("../org/name", None),
        ("~/org/name", None),
    ],
)
def test_a_reference_is_taken_apart(text: str, parsed: HubReference | None) -> None:
    assert HubReference.parse(text) == parsed


def network(stem: Path) -> Path:
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".json", ".safetensors"):
        stem.with_name(stem.name + suffix).write_text("{}")
    return stem


@pytest.mark.parametrize("name", ["ckpts/flow_v1.5", "ckpts/flow_v1.5.json", "ckpts/flow_v1.5.safetensors"])
def test_a_network_of_the_checkpoint_is_named_by_its_path(tmp_path: Path, name: str) -> None:
    stem = network(tmp_path / "ckpts" / "flow_v1.5")
    assert locate_network(name, tmp_path) == stem


def test_a_network_elsewhere_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stem = network(tmp_path / "my@weights" / "flow")
    assert locate_network(str(stem), tmp_path / "checkpoint") == stem
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_network("~/my@weights/flow.safetensors", tmp_path / "checkpoint") == stem
    monkeypatch.chdir(tmp_path)
    assert locate_network("my@weights/flow", tmp_path / "checkpoint").absolute() == stem


def test_a_network_of_another_repository_is_looked_for_in_the_checkpoint_first(cache: Path, tmp_path: Path) -> None:
    name = "microsoft/TRELLIS-image-large/ckpts/flow"
    with pytest.raises(CheckpointError, match=f"weights {name} are not on this machine.*weights download {name}`"):
        locate_network(name, tmp_path)
    snapshot = download(cache, "microsoft/TRELLIS-image-large", "ckpts/flow.json")
    older = download(cache, "microsoft/TRELLIS-image-large", "ckpts/flow.json", "v1", "b" * 40)
    assert locate_network(name, tmp_path) == snapshot / "ckpts" / "flow"
    assert locate_network(f"{name}@v1", tmp_path) == older / "ckpts" / "flow"
    assert locate_network(f"{name}.safetensors@v1", tmp_path) == older / "ckpts" / "flow"
    stem = network(tmp_path / name)
    assert locate_network(name, tmp_path) == stem


@pytest.mark.parametrize("name", ["ckpts/flow", "flow", "/nowhere/ckpts/flow", "../../ckpts/flow"])
def test_a_network_that_is_missing_is_named_by_its_file(cache: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"flow\.json is missing"):
        locate_network(name, tmp_path)


def test_a_path_that_climbs_out_of_a_repository_is_refused(cache: Path, tmp_path: Path) -> None:
    download(cache, "org/name", "pipeline.json")
    with pytest.raises(CheckpointError, match=r"cannot contain a '\.\.' path segment"):
        locate_network("org/name/../../secret", tmp_path)


def test_a_pickle_is_refused_and_nothing_is_not(tmp_path: Path) -> None:
    refuse_pickle(tmp_path / "flow")
    (tmp_path / "flow.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"flow\.ckpt is a pickle.*flow\.safetensors"):
        refuse_pickle(tmp_path / "flow")


def test_the_scorer_is_found_in_the_cache(cache: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"run `sn17-miner weights download {SCORER}`"):
        locate_scorer(SCORER)
    commit = SCORER.partition("@")[2]
    weights = download(cache, "404-Gen/validation", SCORER_FILE, revision=commit, commit=commit) / SCORER_FILE
    # The command gets both files, so it is named for either.
    with pytest.raises(CheckpointError, match=rf"the weights {SCORER} are not on this machine"):
        locate_scorer(SCORER)
    backbone = download(cache, "facebook/dinov2-small", "config.json")
    assert locate_scorer(SCORER) == (weights, backbone)


def test_a_scorer_in_a_directory_may_bring_its_own_config(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scorer"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="is not a scorer: it has no quality_scorer"):
        locate_scorer(str(folder))
    (folder / SCORER_FILE).write_bytes(b"")
    backbone = download(cache, "facebook/dinov2-small", "config.json")
    assert locate_scorer(str(folder)) == (folder / SCORER_FILE, backbone)
    (folder / "config.json").write_text("{}")
    assert locate_scorer(str(folder)) == (folder / SCORER_FILE, folder)
