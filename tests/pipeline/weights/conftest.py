import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from pipeline.weights import background_models as fetch_background_model
from pipeline.weights.download import download as script
from pipeline.weights.locate import locate
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
def phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Write a phase; its background model is already there."""
    monkeypatch.setattr(script, "shipped_config", lambda: tmp_path)
    monkeypatch.setattr(fetch_background_model, "fetch", lambda model: Path("models") / model)

    def write(image: str = IMAGE, text: str = TEXT, more: str = "") -> str:
        (tmp_path / "phases").mkdir(exist_ok=True)
        (tmp_path / "phases" / "mine.yaml").write_text(PHASE.format(image=image, text=text) + more)
        return "mine"

    return write


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Callable[..., int]:
    # The client waits a second before it resumes after a broken connection.
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["download_weights.py", *map(str, arguments)])
        return script.main()

    return run


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
