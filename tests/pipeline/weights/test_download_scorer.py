"""What scores, and what draws."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file

from pipeline.scoring.quality import QualityNetwork
from pipeline.weights.locate import locate
from tests.pipeline.weights.conftest import CPU, files
from tests.support.fake_hub import FakeHub
from tests.support.scorers import write_scorer

PIXELS = torch.zeros(1, 518, 518, 3, dtype=torch.uint8)

SCORER = "404-Gen/validation@948bf06988b630681c7bc468aebf2bbe010856f7"
TURBO = "org/turbo"


@pytest.fixture
def scorer(hub: FakeHub, tmp_path: Path) -> str:
    """Published as the subnet does it, with the backbone's own weights in the backbone's repository."""
    (tmp_path / "scorer-files").mkdir()
    (tmp_path / "backbone-files").mkdir()
    write_scorer(tmp_path / "scorer-files", config=tmp_path / "backbone-files")
    hub.add("404-Gen/validation", tmp_path / "scorer-files")
    hub.add("facebook/dinov2-small", tmp_path / "backbone-files")
    hub.repositories["facebook/dinov2-small"]["model.safetensors"] = b"large"
    commit = SCORER.partition("@")[2]
    hub.commits[commit] = commit
    return "scorer: {}\n"


@pytest.fixture
def turbo(hub: FakeHub, tmp_path: Path) -> str:
    """A model with files in half precision, in full, in several pieces, and pickles."""
    folder = tmp_path / "turbo-files"
    weights = {"weight": torch.zeros(2)}
    content = {
        "_class_name": "Some",
        "feature_extractor": [None, None],
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "transformer": ["diffusers", "Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "image_processor": ["transformers", "CLIPImageProcessor"],
    }
    for name in content:
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(content))
    for name in ("scheduler/scheduler_config", "image_processor/preprocessor_config", "tokenizer/vocab"):
        (folder / f"{name}.json").write_text(json.dumps({"name": name}))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2")
    for name in ("text_encoder", "transformer", "vae"):
        (folder / name / "config.json").write_text(json.dumps({"name": name}))
        (folder / name / "pytorch_model.bin").write_bytes(b"large")
    for name in ("vae/diffusion_pytorch_model", "vae/diffusion_pytorch_model.fp16", "text_encoder/model"):
        save_file(weights | {"name": torch.tensor([*name.encode()])}, folder / f"{name}.safetensors")
    shards = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for shard in shards:
        save_file(weights | {"name": torch.tensor([*shard.encode()])}, folder / "transformer" / shard)
    index = {"weight_map": {"a": shards[0], "b": shards[1], "c": shards[0]}}
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    hub.add(TURBO, folder)
    return f"text_to_image: {{model: {TURBO}}}\n"


TURBO_FILES = {
    "model_index.json",
    "scheduler/scheduler_config.json",
    "image_processor/preprocessor_config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "transformer/diffusion_pytorch_model-00001-of-00002.safetensors",
    "transformer/diffusion_pytorch_model-00002-of-00002.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.fp16.safetensors",
}


def test_what_a_phase_scores_and_draws_with_goes_to_the_cache(
    hub: FakeHub, download: Callable[..., Result], phase: Callable[..., str], cache: Path, scorer: str, turbo: str
) -> None:
    name = phase(more=scorer + turbo)
    content = (cache.parent / "phases" / "mine.yaml").read_text().splitlines(keepends=True)
    # Sentences go one way or the other.
    without_text = [line for line in content if not line.startswith("text:")]
    (cache.parent / "phases" / "mine.yaml").write_text("".join(without_text))
    assert download("--phase", name).exit_code == 0
    assert 0 < QualityNetwork.load(SCORER, CPU).measure(PIXELS) < 1
    assert "facebook/dinov2-small/model.safetensors" not in hub.fetched()
    directory = locate(TURBO, "model_index.json")
    assert files(directory) == TURBO_FILES
    asked = len(hub.requests)
    assert download("--phase", name).exit_code == 0
    assert all(request.method == "HEAD" for request in hub.requests[asked:])


@pytest.mark.parametrize(
    ("reference", "lost", "problem"),
    [
        (SCORER, "quality_scorer.safetensors", "are not on this machine"),
        (TURBO, "diffusion_pytorch_model-00002-of-00002.safetensors", "00002-of-00002.safetensors is missing"),
        (TURBO, "merges.txt", ""),
        (TURBO, "scheduler_config.json", "scheduler_config.json is missing"),
    ],
)
def test_they_are_checked(
    hub: FakeHub,
    download: Callable[..., Result],
    check: Callable[..., Result],
    cache: Path,
    scorer: str,
    turbo: str,
    reference: str,
    lost: str,
    problem: str,
) -> None:
    assert download(reference).exit_code == 0
    result = check(reference)
    assert (result.exit_code, result.stdout.count(": ok, ")) == (0, 1)
    (path,) = cache.rglob(lost)
    path.unlink()
    result = check(reference)
    assert result.exit_code == (2 if problem else 0)
    assert problem in result.stdout


def test_a_scorer_alone_goes_to_a_plain_directory(
    hub: FakeHub, download: Callable[..., Result], phase: Callable[..., str], scorer: str, tmp_path: Path
) -> None:
    assert download(SCORER, "--to", tmp_path / "there").exit_code == 0
    assert files(tmp_path / "there") == {"quality_scorer.safetensors", "config.json"}
    assert 0 < QualityNetwork.load(str(tmp_path / "there"), CPU).measure(PIXELS) < 1


def test_what_to_write_into_the_phase_is_told(
    download: Callable[..., Result],
    phase: Callable[..., str],
    scorer: str,
    tmp_path: Path,
) -> None:
    result = download("--phase", phase(more=scorer), "--to", tmp_path / "all")
    assert result.exit_code == 0
    stdout = result.stdout
    for key, folder in (("image.checkpoint", "image"), ("text.checkpoint", "text"), ("scorer.weights", "scorer")):
        assert f"set {key} of phase mine to {tmp_path / 'all' / folder}" in stdout


def test_a_model_without_safetensors_is_refused(hub: FakeHub, download: Callable[..., Result], turbo: str) -> None:
    for name in ("diffusion_pytorch_model", "diffusion_pytorch_model.fp16"):
        del hub.repositories[TURBO][f"vae/{name}.safetensors"]
    result = download(TURBO)
    assert result.exit_code == 2
    message = "there is no vae/diffusion_pytorch_model.safetensors; pickled weights are not used"
    assert message in result.stderr
