"""The stages of training, as small as they go: that they learn, and that what they leave can be loaded."""

import io
import json
import sys
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline import (
    CheckpointSource,
    Generator,
    Request,
    SamplerParams,
    VoxelLimit,
    choose_compute,
    decode_image_prompt,
    parse_text_prompt,
)
from pipeline.errors import EmptyStructure
from scripts.train_tiny import train
from scripts.train_tiny.data.dataset import Dataset, make_dataset, patch_targets
from scripts.train_tiny.data.objects import make_object
from scripts.train_tiny.data.voxels import voxel_centres
from scripts.train_tiny.train import STAGES
from scripts.train_tiny.training import context, structure
from scripts.train_tiny.training.context import TrainingContext
from scripts.train_tiny.training.latents import disc_quaternions
from scripts.train_tiny.training.optimizer import AveragedNetwork, Optimizer
from scripts.train_tiny.training.prompt_encoders import PromptEncoders, tokenize, write_tokenizer

CPU = torch.device("cpu")
LIMIT = 16_000_000


def test_losses_fall_and_the_average_follows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    # A clock by which 1,500 steps take a second.
    readings = count()
    monkeypatch.setattr(context, "time", SimpleNamespace(monotonic=lambda: next(readings) / 1500))
    network = nn.Linear(3, 1)
    points = torch.randn(64, 3)
    dataset = Dataset([""] * 64, torch.zeros(64, 1), torch.zeros(64, 1), torch.zeros(64, 1), [])
    training = TrainingContext(tmp_path, dataset, torch.Generator().manual_seed(0))

    def losses(chosen: Tensor) -> dict[str, Tensor]:
        return {"error": (network(points[chosen])[:, 0] - points[chosen].sum(dim=1)).square().mean()}

    (found,) = training.optimise("line", [network], [losses], 64, seconds=1.0, learning_rate=0.05)
    torch.testing.assert_close(found.weight, torch.ones(1, 3), atol=0.05, rtol=0)
    first = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert (first["stage"], first["step"]) == ("line", 1)
    assert first["error"] > 0.1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_steps_are_the_eager_ones() -> None:
    """Two losses in turn, each of parameters that the other has nothing to do with."""
    batches = torch.randn(14, 32, 8, generator=torch.Generator().manual_seed(1)).cuda()
    weights = []
    for use_graphs in (False, True):
        torch.manual_seed(0)
        body, first, second = (nn.Linear(8, 8).cuda() for _ in range(3))

        def of_first(batch: Tensor, body: nn.Module = body, head: nn.Module = first) -> dict[str, Tensor]:
            return {"first": head(body(batch).relu()).square().mean(), "small": body(batch).mean().square()}

        def of_second(batch: Tensor, body: nn.Module = body, head: nn.Module = second) -> dict[str, Tensor]:
            return {"second": (head(body(batch).relu()) - batch).square().mean()}

        turns = [of_first, of_second]
        networks = [body, first, second]
        optimizer = Optimizer(networks, turns, batches[0], use_graphs=use_graphs)
        for step, batch in enumerate(batches):
            optimizer.learning_rate.fill_(0.01 / (1 + step))
            losses = optimizer.step(turns[step % 2], batch)
        weights.append([*(p for network in networks for p in network.parameters()), losses["second"]])
    for eager, replayed in zip(*weights, strict=True):
        torch.testing.assert_close(replayed, eager, atol=1e-4, rtol=1e-3)


def test_average_forgets_the_first_weights() -> None:
    """Also after few steps, which a plain moving average does not."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.constant_(network.weight, 100.0)
    average = AveragedNetwork(network)
    nn.init.constant_(network.weight, 1.0)
    for _ in range(200):
        average.update()
    assert next(average.network.parameters()).item() == pytest.approx(1.0, abs=0.01)


def test_discs_face_along_the_normal() -> None:
    normal = F.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    w, x, y, z = disc_quaternions(normal).unbind(-1)
    axis = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], dim=-1)
    torch.testing.assert_close(axis, normal, atol=1e-5, rtol=0)


def test_patch_contents() -> None:
    seen = torch.zeros(1, 7, 16, 16)
    seen[0, 0, :4, 8:12] = 1.0
    seen[0, 6, 12:, :4] = 0.25
    found = patch_targets(seen).view(4, 7, 2, 2)
    assert found.count_nonzero() == 2
    assert found[1, 0, 0, 0] == 1
    # Places count four times.
    assert found[2, 6, 1, 0] == 1


def test_patches_tell_where_surfaces_are() -> None:
    """The points of the dataset's patches are on the object, but for some that are means across an edge."""
    dataset = make_dataset(2, CPU)
    places = (dataset.patches.view(2, -1, 7, 4)[:, :, 3:].float()).transpose(2, 3)
    full = places[..., 0] > 0.99
    assert full.any()
    for number, occupied in enumerate(dataset.occupancy):
        voxels = voxel_centres(occupied.nonzero())
        points = places[number][full[number]][:, 1:] / 4
        assert torch.cdist(points, voxels).amin(dim=1).quantile(0.9) < 1.5 / 64


def test_captions_are_whole_words(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path)
    captions = [make_object(seed).caption for seed in range(50)]
    ids = tokenize([*captions, "zzz"], tmp_path)
    assert ids.shape == (51, 77)
    assert ids.max() == size - 1
    begin, end = size - 2, size - 1
    for caption, row in zip(captions, ids.tolist(), strict=False):
        words = row[1 : row.index(end)]
        assert row[0] == begin
        assert len(words) == len(caption.split())
    assert len({tuple(row) for row in ids.tolist()}) == len({*captions}) + 1


def test_dropped_conditions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is dropped becomes what the pipeline takes for nothing: zero, or the empty sentence."""
    dataset = make_dataset(2, CPU)
    encoders = PromptEncoders(dataset, tmp_path, trained=False)
    with torch.no_grad():
        conditions, tokens = encoders.image_conditions(torch.tensor([0, 1]))
        monkeypatch.setattr("scripts.train_tiny.training.prompt_encoders._DROP_RATE", 1.0)
        assert not encoders.image_conditions(torch.tensor([0, 1]))[0].any()
        none = encoders.text_conditions(torch.tensor([0, 1]))
        monkeypatch.setattr("scripts.train_tiny.training.prompt_encoders._DROP_RATE", 0.0)
        sentences = encoders.text_conditions(torch.tensor([0, 1]))
        torch.testing.assert_close(encoders.image_conditions(torch.tensor([0, 1]))[0], tokens)
    assert conditions.shape == tokens.shape == (2, 5 + 14 * 14, 128)
    torch.testing.assert_close(none[0], none[1])
    assert not torch.allclose(sentences[0], none[0])


@pytest.mark.slow
def test_all_stages_and_both_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing to two checkpoints that the miner loads, within the size that may be shipped."""
    monkeypatch.setattr(structure, "_VALIDATION_SIZE", 1)
    for name, stage in STAGES.items():
        monkeypatch.setitem(STAGES, name, replace(stage, seconds=0.5))
    monkeypatch.setattr(sys, "argv", ["train.py", "--work", str(tmp_path), "--objects", "2", "--device", "cpu"])
    assert train.main() == 0
    stages = [json.loads(line)["stage"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(stages)) == list(STAGES)
    checkpoints = tmp_path / "checkpoints"
    files = [path for path in checkpoints.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    steps = SamplerParams(1, 1.0, (0.0, 1.0), 3.0)
    generator = Generator.load(
        choose_compute("cpu"),
        image=CheckpointSource(str(checkpoints / "tiny")),
        text=CheckpointSource(str(checkpoints / "tiny-text")),
        background_models=["u2netp"],
    )
    assert generator.image is not None and generator.text is not None
    # The same networks serve both.
    assert generator.image.engine.checkpoint.structure_flow is generator.text.engine.checkpoint.structure_flow
    for prompt in (decode_image_prompt(_picture()), parse_text_prompt("a red chair")):
        # What was hardly trained may make nothing; what matters is that it runs.
        with suppress(EmptyStructure):
            generator.generate(Request(prompt, 0, steps, steps, VoxelLimit(300, "drop")))
    # A second run finds everything done.
    before = load_file(tmp_path / "ss_dec_tiny.safetensors")["input_layer.weight"]
    assert train.main() == 0
    assert torch.equal(load_file(tmp_path / "ss_dec_tiny.safetensors")["input_layer.weight"], before)


def test_a_stage_without_time_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or a later run would take an untrained network for a trained one."""
    arguments = ["--work", str(tmp_path), "--objects", "1", "--device", "cpu", "--within", "1"]
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    assert train.main() == 1
    assert "structure_vae is not started" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.safetensors"))


def _picture() -> bytes:
    image = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=(200, 30, 30, 255))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
