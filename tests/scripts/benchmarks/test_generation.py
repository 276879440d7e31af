from pathlib import Path

import pytest
import torch

from miner.config.loader import shipped_config
from miner.config.phase_files import load_phase
from scripts.benchmarks import generation as benchmark


@pytest.mark.parametrize("name", ["phase3", "baseline", "test3", "few-step", "demo"])
def test_phases_are_read_as_the_miner_reads_them(name: str) -> None:
    phase = load_phase(name, shipped_config() / "miner.yaml").settings
    assert benchmark.phase_params(name) == phase.samplers


def test_the_shell_has_the_voxels_asked_for() -> None:
    grid = benchmark.shell(3000, torch.device("cpu"))
    assert len(grid) == 3000
    radii = (grid.positions.double() + 0.5 - 32).norm(dim=1)
    assert float(radii.max() - radii.min()) < 2
    assert int(grid.neighbours.lt(len(grid)).sum(1).min()) > 4


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", [str(Path("benchmark.py"))])
    assert benchmark.main() == 2
    assert "torch sees none" in capsys.readouterr().err
