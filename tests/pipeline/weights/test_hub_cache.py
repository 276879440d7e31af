"""A Hugging Face cache that is damaged: the file is named, and the command that repairs it, which then does."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.backends.text_to_image import TextToImage
from pipeline.compute import choose_compute
from pipeline.errors import CheckpointError
from pipeline.trellis.checkpoint import load_checkpoint
from pipeline.weights.check import check_weights
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate, locate_encoder
from tests.pipeline.weights.conftest import CPU, IMAGE, TEXT
from tests.support.fake_hub import COMMIT, FakeHub

DRAWER = "org/drawer"


def folder_of(cache: Path, repository: str = IMAGE) -> Path:
    return cache / f"models--{repository.replace('/', '--')}"


def load(reference: str) -> None:
    import torch

    directory = locate(reference, "pipeline.json")
    checkpoint = load_checkpoint(directory, CPU, torch.float32)
    locate_encoder(checkpoint.encoders["image_cond_model"], "image_cond_model", directory)


def lose_blob(link: Path) -> Path:
    """Delete what a link of a snapshot leads to."""
    link.resolve().unlink()
    assert link.is_symlink()
    return link


def lose_revision(cache: Path) -> Path:
    path = folder_of(cache) / "refs" / "main"
    path.write_text(path.read_text() + "\n")
    return path


def lose(file: str) -> Callable[[Path], Path]:
    return lambda cache: lose_blob(folder_of(cache) / "snapshots" / COMMIT / file)


@pytest.mark.parametrize(
    "damage",
    [
        lose_revision,
        lose("pipeline.json"),
        lose("ckpts/slat_flow_tiny.json"),
        lose("ckpts/slat_flow_tiny.safetensors"),
        lose("ckpts/ss_dec_tiny.safetensors"),
    ],
    ids=["revision", "pipeline", "json", "safetensors", "decoder"],
)
@pytest.mark.usefixtures("hub")
def test_damage_is_named_with_what_repairs_it(
    download: Callable[..., Result], check: Callable[..., Result], cache: Path, damage: Callable[[Path], Path]
) -> None:
    assert download(IMAGE).exit_code == 0
    damaged = str(damage(cache))
    with pytest.raises(CheckpointError) as caught:
        load(IMAGE)
    result = check(IMAGE)
    assert result.exit_code == 2
    for message in (str(caught.value), result.stdout):
        assert damaged in message
        assert f"run `sn17-miner weights download {IMAGE}`" in message
    assert download(IMAGE).exit_code == 0
    load(IMAGE)
    assert check(IMAGE).exit_code == 0


@pytest.mark.usefixtures("hub")
def test_a_network_of_another_repository_is_repaired_by_its_own_name(
    download: Callable[..., Result], cache: Path
) -> None:
    assert download(TEXT).exit_code == 0
    damaged = lose_blob(folder_of(cache) / "snapshots" / COMMIT / "ckpts" / "ss_dec_tiny.safetensors")
    (problem,) = [part.problem for part in check_weights(TEXT) if part.problem]
    assert problem.endswith(
        f"{damaged} is a link to a file that is gone: run `sn17-miner weights download {IMAGE}/ckpts/ss_dec_tiny`"
    )
    assert download(f"{IMAGE}/ckpts/ss_dec_tiny").exit_code == 0
    assert not any(part.problem for part in check_weights(TEXT))


def test_a_commit_that_is_not_the_main_one_is_part_of_the_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (snapshot / "pipeline.json").write_text("{}")
    assert cure(snapshot / "ckpts" / "a.json") == ": run `sn17-miner weights download org/name@c0ffee`"
    assert cure(tmp_path / "weights" / "a.json") == ""


def shards(hub: FakeHub) -> None:
    """Publish a text-to-image model whose only network is in two shards."""
    from safetensors.numpy import save

    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    hub.repositories[DRAWER] = {
        "model_index.json": json.dumps({"unet": ["diffusers", "UNet2DConditionModel"]}).encode(),
        "unet/config.json": b"{}",
        "unet/diffusion_pytorch_model.safetensors.index.json": json.dumps(index).encode(),
        "unet/model-1.safetensors": save({}, {"part": "1"}),
        "unet/model-2.safetensors": save({}, {"part": "2"}),
    }


@pytest.mark.parametrize("is_link", [True, False])
def test_a_lost_shard_is_named(
    hub: FakeHub, download: Callable[..., Result], check: Callable[..., Result], cache: Path, is_link: bool
) -> None:
    shards(hub)
    assert download(DRAWER).exit_code == 0
    assert check(DRAWER).exit_code == 0
    shard = folder_of(cache, DRAWER) / "snapshots" / COMMIT / "unet" / "model-2.safetensors"
    lose_blob(shard)
    if not is_link:
        shard.unlink()
    with pytest.raises(CheckpointError) as caught:
        TextToImage.load(DRAWER, choose_compute("cpu"))
    for message in (str(caught.value), check(DRAWER).stdout):
        assert str(shard) in message
        assert f"run `sn17-miner weights download {DRAWER}`" in message
    assert download(DRAWER).exit_code == 0
    assert check(DRAWER).exit_code == 0
