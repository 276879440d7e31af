import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from huggingface_hub import constants

from pipeline.weights import background_models
from pipeline.weights.locate import locate
from pipeline.weights.revisions import PINNED_REVISIONS
from tests.support.cli import run
from tests.support.fake_hub import FakeHub

CPU = torch.device("cpu")
EMBEDDED = locate("embedded", "pipeline.json")
IMAGE, TEXT = "microsoft/TRELLIS-image-large", "microsoft/TRELLIS-text-xlarge"
DINO, CLIP = "facebook/dinov2-with-registers-large", "openai/clip-vit-large-patch14"
FLOW = "ckpts/slat_flow_tiny.safetensors"
NETWORK = f"{IMAGE}/ckpts/slat_flow_tiny"
PHASE = """
image: {{checkpoint: {image}}}
text: {{checkpoint: {text}}}
sparse_structure_sampler_params: {{steps: 2, cfg_strength: 5}}
slat_sampler_params: {{steps: 2, cfg_strength: 5}}
background: {{model: u2netp}}
"""


def publish(hub: FakeHub, text_checkpoint: Path) -> None:
    """Small weights under upstream's names and laid out as upstream lays them out."""
    hub.add(IMAGE, EMBEDDED / "ckpts", prefix="ckpts/")
    content = json.loads((EMBEDDED / "pipeline.json").read_text())
    content["args"]["image_cond_model"] = "dinov2_vitl14_reg"
    content["args"]["models"]["slat_decoder_mesh"] = "ckpts/slat_dec_mesh"
    hub.repositories[IMAGE] |= {
        "pipeline.json": json.dumps(content).encode(),
        "ckpts/slat_dec_mesh.json": b"{}",
        "ckpts/slat_dec_mesh.safetensors": b"large",
        "README.md": b"",
    }
    hub.add(DINO, EMBEDDED / "image_encoder")
    hub.repositories[DINO]["pytorch_model.bin"] = b"large"
    hub.add(TEXT, text_checkpoint / "ckpts", prefix="ckpts/")
    content = json.loads((text_checkpoint / "pipeline.json").read_text())
    content["args"]["text_cond_model"] = CLIP
    for role, name in (("sparse_structure_decoder", "ss_dec_tiny"), ("slat_decoder_gs", "slat_dec_gs_tiny")):
        content["args"]["models"][role] = f"{IMAGE}/ckpts/{name}"
    hub.repositories[TEXT]["pipeline.json"] = json.dumps(content).encode()
    hub.add(CLIP, text_checkpoint / "text_encoder")
    hub.repositories[CLIP]["tokenizer_config.json"] = b"{}"
    hub.repositories[CLIP]["pytorch_model.bin"] = b"large"


@pytest.fixture(autouse=True)
def newest_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the newest revision of everything, as of repositories that the product does not name."""
    for repository in tuple(PINNED_REVISIONS):
        monkeypatch.delitem(PINNED_REVISIONS, repository)


@pytest.fixture
def hub(tiny_text_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as hub:
        publish(hub, tiny_text_checkpoint)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file whose phase is `mine`."""
    path = tmp_path / "miner.yaml"
    path.write_text("phase: mine\n")
    return path


@pytest.fixture
def phase(config: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a phase beside the settings file; its background model is already there."""
    monkeypatch.setattr(background_models, "download_model", lambda model: Path("models") / model)

    def write(image: str = IMAGE, text: str = TEXT, more: str = "") -> str:
        (config.parent / "phases").mkdir(exist_ok=True)
        (config.parent / "phases" / "mine.yaml").write_text(PHASE.format(image=image, text=text) + more)
        return "mine"

    return write


@pytest.fixture
def download(monkeypatch: pytest.MonkeyPatch, cache: Path, config: Path) -> Callable[..., Result]:
    """Run `sn17-miner weights download`."""
    # The client waits a second before it resumes after a broken connection.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return lambda *arguments: run("weights", "download", "--config", config, *arguments)


@pytest.fixture
def check(cache: Path, config: Path) -> Callable[..., Result]:
    """Run `sn17-miner weights check`."""
    return lambda *arguments: run("weights", "check", "--config", config, *arguments)


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
