from dataclasses import replace

import pytest
import torch

from miner.config.loader import shipped_config
from miner.config.phase_files import load_phase
from pipeline import choose_compute
from pipeline.weights.locate import locate
from scripts.benchmarks import generation
from scripts.benchmarks.workload import GenerationWorkload, phase_params, shell_grid
from scripts.loaded_checkpoint import LoadedCheckpoint


def test_the_parameters_are_those_of_the_phase() -> None:
    structure, latents = load_phase("phase3", shipped_config() / "miner.yaml").settings.samplers
    assert phase_params("phase3", reuse=2) == (replace(structure, reuse=2), replace(latents, reuse=2))


def test_the_shell_has_the_voxels_asked_for() -> None:
    grid = shell_grid(3000, torch.device("cpu"))
    assert len(grid) == 3000
    radii = (grid.positions.double() + 0.5 - 32).norm(dim=1)
    assert float(radii.max() - radii.min()) < 2
    assert int(grid.neighbours.lt(len(grid)).sum(1).min()) > 4


@pytest.mark.parametrize("checkpoint", ["embedded", "embedded-text"])
@torch.inference_mode()
def test_all_stages_are_measured(checkpoint: str) -> None:
    loaded = LoadedCheckpoint.load(locate(checkpoint, "pipeline.json"), choose_compute("cpu"))
    structure, latents = (replace(params, steps=1) for params in phase_params("few-step"))
    workload = GenerationWorkload.prepare(loaded, (structure, latents), 300)
    stages = generation.measure_stages(workload, repeats=1)
    assert all(seconds > 0 for seconds, _ in stages.values())
    assert [name for name, (_, count) in stages.items() if count] == [
        "structure sampling",
        "latent sampling",
        "gaussian decoding",
    ]
    assert generation.first_to_last(workload, shell_grid(200, torch.device("cpu")), 2) > 0


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["generation"])
    assert generation.main() == 2
    assert "torch finds none" in capsys.readouterr().err
