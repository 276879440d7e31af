import itertools
import json
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from pipeline.params import NEGATIVE, Conditions, SamplerParams, Velocities
from pipeline.sampling.euler import euler_steps, guided_velocity, schedule
from tests.support.paths import DATA

GOLDEN = DATA / "trellis"
MANIFEST = json.loads((GOLDEN / "manifest.json").read_text())
GUIDED = MANIFEST["cfg_schedule_rescale3_G_is_guided"]


NOTHING = Conditions((None,), None)


def constant(conditions: Conditions) -> Velocities:
    """Velocities that are the contexts themselves."""

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        return [conditions.contexts[index].expand_as(x) for index in indices]

    return velocities


@pytest.mark.parametrize("rescale_t", [1.0, 3.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 12, 25, 50])
def test_schedule_falls_from_one_to_zero(steps: int, rescale_t: float) -> None:
    times = schedule(steps, rescale_t)
    assert len(times) == steps + 1
    assert (times[0], times[-1]) == (1.0, 0.0)
    assert all(later < earlier for earlier, later in itertools.pairwise(times))


def test_schedule_without_rescaling_is_uniform() -> None:
    assert schedule(4, 1.0) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_time_meets_the_end_of_an_interval_exactly() -> None:
    # u = 1/4 and r = 3 give 3/4 : 3/2; an error in the last digit would decide whether step 9 is guided.
    assert schedule(12, 3.0)[9] == 0.5


@pytest.mark.parametrize(("name", "expected"), GUIDED.items())
def test_guided_steps_are_those_of_upstream(name: str, expected: str) -> None:
    steps, lo, hi = name.split("_")
    params = SamplerParams(int(steps), 5.0, (float(lo), float(hi)), 3.0)
    guided = [params.guided(t) for t in schedule(params.steps, params.rescale_t)[:-1]]
    assert "".join("G" if g else "." for g in guided) == expected


@pytest.mark.parametrize(("t", "guided"), [(0.5, True), (0.95, True), (0.4999, False), (0.9501, False)])
def test_the_interval_includes_both_ends(t: float, guided: bool) -> None:
    assert SamplerParams(2, 1.0, (0.5, 0.95)).guided(t) is guided


def test_strength_zero_is_conditional_only() -> None:
    assert not SamplerParams(2, 0.0).guided(0.7)


def test_guidance_extrapolates_from_the_conditional_velocity() -> None:
    x, cond, neg = torch.zeros(2), torch.tensor([2.0, -1.0]), torch.tensor([1.0, 3.0])
    velocities = constant(Conditions((cond,), neg))
    v = guided_velocity(velocities, x, 0, [0], 4.0)
    assert v.tolist() == [5 * 2.0 - 4 * 1.0, 5 * -1.0 - 4 * 3.0]
    outside = guided_velocity(velocities, x, 0, [0], 0.0)
    assert outside.tolist() == cond.tolist()


@pytest.mark.parametrize("rescale_t", [1.0, 3.0])
def test_a_constant_velocity_is_integrated_exactly(rescale_t: float) -> None:
    noise = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    velocity = torch.tensor([0.5, -4.0, 0.0], dtype=torch.float64)
    conditions = Conditions((velocity,), velocity)
    steps = list(euler_steps(constant(conditions), noise, conditions, SamplerParams(7, 0.0, rescale_t=rescale_t)))
    assert torch.allclose(steps[-1].x_next, noise - velocity, atol=1e-14, rtol=0)


def test_a_velocity_of_x_and_t_is_integrated_to_first_order() -> None:
    # dx/dt = x + t has the solution (x1 + 2) * exp(t - 1) - t - 1 through x1 at t = 1.
    noise = torch.tensor([3.0], dtype=torch.float64)
    exact = 5 * torch.exp(torch.tensor(-1.0, dtype=torch.float64)) - 1

    def error(count: int) -> float:
        times = schedule(count, 1.0)
        steps = list(euler_steps(lambda x, step, _: [x + times[step]], noise, NOTHING, SamplerParams(count, 0.0)))
        return float((steps[-1].x_next - exact).abs())

    assert error(400) < 5e-3
    assert error(100) / error(400) == pytest.approx(4, rel=0.05)


def test_steps_chain_and_are_numbered() -> None:
    noise = torch.ones(1)
    conditions = Conditions((torch.ones(1),), torch.ones(1))
    steps = list(euler_steps(constant(conditions), noise, conditions, SamplerParams(5, 0.0, rescale_t=3.0)))
    assert [s.index for s in steps] == [0, 1, 2, 3, 4]
    assert steps[0].x is noise
    assert [s.t for s in steps] == schedule(5, 3.0)[:-1]
    for step, following in itertools.pairwise(steps):
        assert step.t_next == following.t
        assert step.x_next is following.x
    assert noise.tolist() == [1.0]


def test_calls_are_those_of_upstream_in_its_order() -> None:
    stated = MANIFEST["ss_sampler_params"]
    params = SamplerParams(**{**stated, "cfg_interval": tuple(stated["cfg_interval"])})
    calls, times = [], schedule(params.steps, params.rescale_t)

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        time = float(torch.tensor(1000 * times[step], dtype=torch.float32))
        calls.extend([time, index == NEGATIVE] for index in indices)
        return [torch.zeros_like(x) for _ in indices]

    list(euler_steps(velocities, torch.zeros(1), NOTHING, params))
    assert calls == MANIFEST["ss_sampler_calls_t1000_isuncond"]


VIEWS = tuple(torch.tensor([value]) for value in (1.0, 2.0, 6.0))


def test_several_views_take_turns() -> None:
    conditions = Conditions(VIEWS, torch.zeros(1))
    steps = euler_steps(constant(conditions), torch.zeros(1), conditions, SamplerParams(7, 0.0))
    assert [float(step.velocity) for step in steps] == [1.0, 2.0, 6.0, 1.0, 2.0, 6.0, 1.0]


def test_several_views_are_averaged_with_one_negative_call() -> None:
    calls = []
    conditions = Conditions(VIEWS, torch.tensor([-1.0]), "multidiffusion")

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        calls.append(list(indices))
        return constant(conditions)(x, step, indices)

    steps = list(euler_steps(velocities, torch.zeros(1), conditions, SamplerParams(2, 4.0, (0.6, 1.0))))
    assert [float(step.velocity) for step in steps] == [5 * 3.0 - 4 * -1.0, 3.0]
    assert calls == [[0, 1, 2, NEGATIVE], [0, 1, 2]]


@pytest.mark.parametrize(
    ("reuse", "expected"), [(0, "EEEEEEEEEE"), (1, "E.E.E.EEEE"), (2, "E..E..EEEE"), (9, "E.....EEEE")]
)
def test_guided_steps_may_reuse_the_velocity_before(reuse: int, expected: str) -> None:
    evaluated = []

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        evaluated.append(step)
        return [x] * len(indices)

    params = SamplerParams(10, 1.0, (0.5, 1.0), reuse=reuse)
    steps = list(euler_steps(velocities, torch.ones(1), NOTHING, params))
    assert "".join("E" if step.index in evaluated else "." for step in steps) == expected
    for before, step in itertools.pairwise(steps):
        assert step.index in evaluated or step.velocity is before.velocity


def test_nothing_is_computed_before_it_is_asked_for() -> None:
    calls = []

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        calls.append(step)
        return [x]

    steps = euler_steps(velocities, torch.ones(1), NOTHING, SamplerParams(10, 0.0))
    assert calls == []
    next(steps)
    next(steps)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"cfg_strength": -0.5}, "cfg_strength must be finite and not negative, is -0.5"),
        ({"cfg_interval": (0.6, 0.5)}, r"cfg_interval must satisfy .* is \(0.6, 0.5\)"),
        ({"cfg_interval": (-0.1, 0.5)}, "cfg_interval must satisfy"),
        ({"cfg_interval": (0.5, 1.1)}, "cfg_interval must satisfy"),
        ({"cfg_interval": (float("nan"), 1.0)}, "cfg_interval must satisfy"),
        ({"reuse": -1}, "reuse must not be negative, is -1"),
        ({"rescale_t": 0.0}, "rescale_t must be finite and positive, is 0.0"),
        ({"rescale_t": float("nan")}, "rescale_t must be finite and positive, is nan"),
        ({"rescale_t": float("inf")}, "rescale_t must be finite and positive, is inf"),
        ({"cfg_strength": float("inf")}, "cfg_strength must be finite and not negative, is inf"),
        ({"cfg_strength": float("nan")}, "cfg_strength must be finite and not negative, is nan"),
    ],
)
def test_settings_out_of_range_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerParams(**{"steps": 5, "cfg_strength": 1.0, **change})
