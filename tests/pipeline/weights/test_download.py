"""What is downloaded, and where it goes."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result

from pipeline.conditioning.image_encoder import ImageEncoder
from pipeline.conditioning.text_encoder import TextEncoder
from pipeline.trellis.checkpoint import LoadedNetworks, load_checkpoint
from pipeline.weights.locate import locate, locate_encoder
from tests.pipeline.weights.conftest import CLIP, CPU, DINO, EMBEDDED, FLOW, IMAGE, TEXT, files
from tests.support.fake_hub import COMMIT, FakeHub
from tests.support.paths import ROOT


def load_both(image: str, text: str) -> None:
    """What the miner does with the weights. Raises CheckpointError if something is missing."""
    loaded: LoadedNetworks = {}
    directory = locate(image, "pipeline.json")
    networks = load_checkpoint(directory, CPU, torch.float32, loaded=loaded)
    ImageEncoder(networks.locate_encoder("image_cond_model"), CPU)
    directory = locate(text, "pipeline.json")
    networks = load_checkpoint(directory, CPU, torch.float32, loaded=loaded)
    TextEncoder(networks.locate_encoder("text_cond_model"), CPU)
    # The decoders are the same files.
    assert len(loaded) == 6


def test_a_phase_goes_to_the_cache_and_the_miner_finds_it(
    hub: FakeHub, download: Callable[..., Result], phase: Callable[..., str], cache: Path
) -> None:
    result = download("--phase", phase())
    assert result.exit_code == 0
    assert "background model u2netp: verified, models/u2netp" in result.stdout
    load_both(IMAGE, TEXT)
    assert not any("mesh" in path or path.endswith((".bin", ".md")) for path in hub.fetched())
    assert not list(cache.rglob("*.incomplete"))
    asked = len(hub.requests)
    assert download("--phase", phase()).exit_code == 0
    assert all(request.method == "HEAD" for request in hub.requests[asked:])


def test_a_phase_goes_to_plain_directories(
    hub: FakeHub,
    download: Callable[..., Result],
    phase: Callable[..., str],
    cache: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "weights"
    result = download("--phase", phase(), "--to", folder)
    assert result.exit_code == 0
    out = result.stdout
    assert f"set image.checkpoint of phase mine to {folder}/image" in out
    assert f"set text.checkpoint of phase mine to {folder}/text" in out
    load_both(str(folder / "image"), str(folder / "text"))
    assert not cache.exists()
    networks = ("slat_dec_gs_tiny", "slat_flow_tiny", "ss_dec_tiny", "ss_flow_tiny")
    assert files(folder / "image") == {
        "pipeline.json",
        *(f"ckpts/{name}{suffix}" for name in networks for suffix in (".json", ".safetensors")),
        "dinov2_vitl14_reg/config.json",
        "dinov2_vitl14_reg/model.safetensors",
    }
    # Both checkpoints use it, and it came once.
    assert [request.path for request in hub.requests].count("ckpts/slat_dec_gs_tiny.safetensors") == 1


def test_one_checkpoint_goes_to_the_directory_itself(
    hub: FakeHub, download: Callable[..., Result], tmp_path: Path
) -> None:
    assert download(f"{IMAGE}@main", "--to", tmp_path / "weights").exit_code == 0
    assert (tmp_path / "weights" / "pipeline.json").is_file()
    networks = load_checkpoint(tmp_path / "weights", CPU, torch.float32)
    assert networks.locate_encoder("image_cond_model")


def test_a_network_and_an_encoder_by_themselves(hub: FakeHub, download: Callable[..., Result], cache: Path) -> None:
    assert download(f"{IMAGE}/ckpts/ss_dec_tiny@{COMMIT}", CLIP, DINO).exit_code == 0
    snapshot = cache / "models--microsoft--TRELLIS-image-large" / "snapshots" / COMMIT
    assert files(snapshot) == {"ckpts/ss_dec_tiny.json", "ckpts/ss_dec_tiny.safetensors"}
    TextEncoder(locate(CLIP, "config.json"), CPU)
    ImageEncoder(locate(DINO, "config.json"), CPU)


@pytest.mark.parametrize("to", [False, True])
def test_an_override_comes_from_its_own_repository_at_its_revision(
    hub: FakeHub, download: Callable[..., Result], phase: Callable[..., str], tmp_path: Path, to: bool
) -> None:
    hub.commits["v2"] = "d" * 40
    reference = "somebody/distilled/flows/slat@v2"
    hub.repositories["somebody/distilled"] = {
        f"flows/slat{suffix}": (EMBEDDED / f"ckpts/slat_flow_tiny{suffix}").read_bytes()
        for suffix in (".json", ".safetensors")
    }
    name = phase(IMAGE + f", overrides: {{slat_flow_model: {reference}}}")
    assert download("--phase", name, *(("--to", tmp_path / "w") if to else ())).exit_code == 0
    assert f"{IMAGE}/ckpts/slat_flow_tiny.json" not in hub.fetched()
    directory = locate(str(tmp_path / "w" / "image") if to else IMAGE, "pipeline.json")
    assert load_checkpoint(directory, CPU, torch.float32, overrides={"slat_flow_model": reference})


def test_what_a_local_checkpoint_lacks_goes_to_the_cache_or_into_it(
    hub: FakeHub, download: Callable[..., Result], tmp_path: Path
) -> None:
    own = tmp_path / "own"
    shutil.copytree(EMBEDDED / "ckpts", own / "ckpts")
    (own / "pipeline.json").write_bytes(hub.repositories[IMAGE]["pipeline.json"])
    assert download(own).exit_code == 0
    assert hub.fetched() == {f"{DINO}/config.json", f"{DINO}/model.safetensors", "model.safetensors"}
    assert locate_encoder("dinov2_vitl14_reg", "image_cond_model", own).parent.name == "snapshots"
    assert download(own, "--to", own).exit_code == 0
    assert locate_encoder("dinov2_vitl14_reg", "image_cond_model", own) == own / "dinov2_vitl14_reg"
    result = download(own, "--to", tmp_path / "other")
    assert result.exit_code == 2
    assert "is already a directory" in result.stderr
    (own / FLOW).write_bytes((own / FLOW).read_bytes()[:-1])
    result = download(own)
    assert result.exit_code == 2
    assert f"{own / FLOW} is damaged or not a safetensors file" in result.stderr


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: FakeHub, download: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert download(IMAGE).exit_code == 0
    at_the_hub = [request for request in hub.requests if request.path.startswith(IMAGE)]
    elsewhere = [request for request in hub.requests if request.path.startswith("ckpts/")]
    assert {request.authorization for request in at_the_hub} == {"Bearer hf_secret"}
    assert {request.authorization for request in elsewhere} == {None}
    assert len(elsewhere) == 4


def test_the_embedded_checkpoint_needs_nothing(
    hub: FakeHub,
    download: Callable[..., Result],
    phase: Callable[..., str],
    tmp_path: Path,
) -> None:
    assert download("embedded").exit_code == 0
    assert hub.requests == []
    result = download("--phase", phase("embedded"), "--to", tmp_path / "w")
    assert result.exit_code == 0
    out = result.stdout
    assert f"set text.checkpoint of phase mine to {tmp_path}/w\n" in out
    assert "set image.checkpoint" not in out


@pytest.mark.process
def test_the_endpoint_comes_from_the_environment_and_progress_is_shown(hub: FakeHub, tmp_path: Path) -> None:
    # The last one shows bars without a terminal, too.
    environment = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "TQDM_POSITION": "-1"}
    command = [sys.executable, "-m", "miner", "weights", "download", f"{IMAGE}/ckpts/ss_dec_tiny@main"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("verified")) == (0, 2), done.stderr
    assert "ckpts/ss_dec_tiny.safetensors: 100%" in done.stderr
    assert len(list(tmp_path.rglob("ss_dec_tiny.safetensors"))) == 1
