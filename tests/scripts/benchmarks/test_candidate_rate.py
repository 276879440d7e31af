"""Candidates are counted that the miner's own worker makes; the device and its power are stood in for."""

import itertools
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from pipeline import Splats
from scripts.benchmarks import candidate_rate
from scripts.benchmarks.workload import phase_params
from tests.support.generated import FakeScorer, make_splats


@pytest.mark.parametrize("is_scored", [False, True])
def test_candidates_that_are_finished_in_time_are_counted(is_scored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    scored: list[Splats] = []
    structure, latents = phase_params("phase3")

    def make(grid: object) -> Splats:
        made.append(grid)
        return make_splats()

    def quality(splats: Splats) -> float:
        scored.append(splats)
        return 0.5

    def with_power(work: Callable[[], list[float]], _: object) -> tuple[list[float], float]:
        return work(), 600.0

    # A second passes with each look at the clock, of which there is one at the start and one for each candidate.
    clock = itertools.count()
    monkeypatch.setattr(candidate_rate, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(candidate_rate, "SECONDS", 5.0)
    monkeypatch.setattr(candidate_rate, "with_mean_power", with_power)
    engine = SimpleNamespace(device=torch.device("cuda", 0))
    workload = SimpleNamespace(
        engine=engine, grid=range(300), make_splats=make, structure_params=structure, latent_params=latents
    )
    scorer = FakeScorer(quality) if is_scored else None
    result = candidate_rate.measure_candidates(workload, scorer, "phase3")  # type: ignore[arg-type]
    assert result["count"] == 5
    assert (result["seconds_each"], result["joules_each"], result["watts"]) == (1.0, 600, 600)
    assert len(made) > 6
    assert len(scored) == (len(made) if is_scored else 0)
