"""The samplers' results, intermediate states, calls and schedules."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.params import NEGATIVE, Conditions, SamplerParams
from pipeline.sampling.euler import Step, euler_steps, schedule
from pipeline.trellis import VoxelGrid
from scripts.parity_checks.report import Arrays, Golden, Report

# Upstream's sampler constant; it enters the x_0 that it reports, nothing else.
SIGMA_MIN = 1e-5
# Of the structured latents, as the public checkpoints' pipeline.json has them.
SLAT_MEAN = [-2.1687545776367188, -0.004347046371549368, -0.13352349400520325, -0.08418072760105133]
SLAT_MEAN += [-0.5271206498146057, 0.7238689064979553, -1.1414450407028198, 1.2039363384246826]
SLAT_STD = [2.377650737762451, 2.386378288269043, 2.124418020248413, 2.1748552322387695]
SLAT_STD += [2.663944721221924, 2.371192216873169, 2.6217446327209473, 2.684523105621338]

Flow = Callable[[Tensor, Tensor, Tensor], Tensor]


def _params(golden: Golden, key: str) -> SamplerParams:
    stated = golden.manifest[key]
    return SamplerParams(**{**stated, "cfg_interval": tuple(stated.get("cfg_interval", (0.0, 1.0)))})


def _run(g: Arrays, params: SamplerParams, flow: Flow) -> tuple[list[Step], list[list[float]]]:
    """All steps, and the calls made: [t * 1000, is the negative one]; without neg_cond it is zeros."""
    calls: list[list[float]] = []
    contexts = {0: g["cond"], NEGATIVE: g.get("neg_cond", torch.zeros_like(g["cond"]))}
    times = schedule(params.steps, params.rescale_t)

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        time = torch.full((len(g["cond"]),), 1000 * times[step], dtype=torch.float32)
        calls.extend([float(time[0]), float(index == NEGATIVE)] for index in indices)
        return [flow(x, time, contexts[index]) for index in indices]

    return list(euler_steps(velocities, g["noise"], Conditions((contexts[0],), contexts[NEGATIVE]), params)), calls


def _compare(file: str, g: Arrays, golden: Golden, report: Report, flow: Flow) -> list[Step]:
    stem = Path(file).stem
    steps, calls = _run(g, _params(golden, f"{stem}_params"), flow)
    if f"{stem}_calls_t1000_isuncond" in golden.manifest:
        report.close(f"{file}: calls", calls, golden.manifest[f"{stem}_calls_t1000_isuncond"], bound=0.0)
    last = steps[-1]
    results = {
        "samples": last.x_next,
        "pred_x_t": torch.stack([step.x_next for step in steps]),
        "pred_x_0_last": (1 - SIGMA_MIN) * last.x - (SIGMA_MIN + (1 - SIGMA_MIN) * last.t) * last.velocity,
    }
    for name in sorted(results.keys() & g.keys()):
        report.close(f"{file}: {name}", results[name], g[name])
    return steps


def structure_sampler(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Guidance inside an interval, over a dense grid."""
    _compare(file, g, golden, report, golden.network(file, "SparseStructureFlowModel"))
    return {"noise", "cond", "neg_cond", "samples", "pred_x_t", "pred_x_0_last"}


def latent_sampler(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Guidance inside an interval, over voxels, and the denormalised latents."""
    flow, grid = golden.network(file, "SLatFlowModel"), VoxelGrid(g["coords"])
    steps = _compare(file, g, golden, report, lambda x, t, cond: flow(x, grid, t, cond))
    if "slat" in g:
        slat = steps[-1].x_next * torch.tensor(SLAT_STD) + torch.tensor(SLAT_MEAN)
        report.close(f"{file}: slat", slat, g["slat"])
    return {"coords", "noise", "cond", "neg_cond", "samples", "pred_x_t", "pred_x_0_last", "slat"}


def other_samplers(file: str, g: Arrays, golden: Golden, report: Report) -> set[str]:
    """Guidance at every step, and at none, from the structure sampler's noise and condition."""
    inputs = golden.arrays("ss_sampler.npz")
    flow = golden.network("ss_sampler.npz", "SparseStructureFlowModel")
    used = set()
    if "samples_cfg" in g:
        steps, _ = _run(inputs, _params(golden, "ss_sampler_cfg_params"), flow)
        report.close(f"{file}: samples_cfg", steps[-1].x_next, g["samples_cfg"])
        used.add("samples_cfg")
    stated = re.search(r"steps=(\d+)", golden.note(file))
    if "samples_plain" in g and stated:
        steps, _ = _run(inputs, SamplerParams(int(stated[1]), cfg_strength=0.0), flow)
        report.close(f"{file}: samples_plain", steps[-1].x_next, g["samples_plain"])
        used.add("samples_plain")
    return used


def guidance_schedules(key: str, stated: dict[str, str], report: Report) -> None:
    """Which steps are guided: {"steps_lo_hi": "GG.."} under a key such as cfg_schedule_rescale3_G_is_guided."""
    rescale = re.search(r"rescale([\d.]+)", key)
    for name, expected in stated.items():
        steps, lo, hi = name.split("_")
        params = SamplerParams(int(steps), 1.0, (float(lo), float(hi)), float(rescale[1]) if rescale else 1.0)
        times: Sequence[float] = schedule(params.steps, params.rescale_t)[:-1]
        ours = ["G" if params.guided(t) else "." for t in times]
        report.exact(f"manifest: {key} {name}", ours, list(expected))
