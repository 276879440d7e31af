"""Checks of the samplers' results, intermediate states, calls and schedules."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.params import NEGATIVE, Conditions, SamplerParams
from pipeline.sampling.euler import Step, euler_steps, schedule
from pipeline.trellis import VoxelGrid
from scripts.parity_checks.report import Arrays, Golden, Report

# Upstream's sampler constant, which enters only the x_0 that it reports.
SIGMA_MIN = 1e-5
# Statistics of the structured latents in the public checkpoints' pipeline.json.
SLAT_MEAN = [-2.1687545776367188, -0.004347046371549368, -0.13352349400520325, -0.08418072760105133]
SLAT_MEAN += [-0.5271206498146057, 0.7238689064979553, -1.1414450407028198, 1.2039363384246826]
SLAT_STD = [2.377650737762451, 2.386378288269043, 2.124418020248413, 2.1748552322387695]
SLAT_STD += [2.663944721221924, 2.371192216873169, 2.6217446327209473, 2.684523105621338]

Flow = Callable[[Tensor, Tensor, Tensor], Tensor]


def _params(golden: Golden, key: str) -> SamplerParams:
    stated = golden.manifest[key]
    return SamplerParams(**{**stated, "cfg_interval": tuple(stated.get("cfg_interval", (0.0, 1.0)))})


def _sample(arrays: Arrays, params: SamplerParams, flow: Flow) -> tuple[list[Step], list[list[float]]]:
    """Return all steps, and the calls made: [t * 1000, is the negative one]; without neg_cond it is zeros."""
    calls: list[list[float]] = []
    contexts = {0: arrays["cond"], NEGATIVE: arrays.get("neg_cond", torch.zeros_like(arrays["cond"]))}
    times = schedule(params.steps, params.rescale_t)

    def velocities(x: Tensor, step: int, indices: Sequence[int]) -> list[Tensor]:
        time = torch.full((len(contexts[0]),), 1000 * times[step], dtype=torch.float32)
        calls.extend([float(time[0]), float(index == NEGATIVE)] for index in indices)
        return [flow(x, time, contexts[index]) for index in indices]

    conditions = Conditions((contexts[0],), contexts[NEGATIVE])
    return list(euler_steps(velocities, arrays["noise"], conditions, params)), calls


def _check_sampler(file: str, arrays: Arrays, golden: Golden, report: Report, flow: Flow) -> list[Step]:
    stem = Path(file).stem
    steps, calls = _sample(arrays, _params(golden, f"{stem}_params"), flow)
    if f"{stem}_calls_t1000_isuncond" in golden.manifest:
        report.compare(f"{file}: calls", calls, golden.manifest[f"{stem}_calls_t1000_isuncond"], bound=0.0)
    last = steps[-1]
    results = {
        "samples": last.x_next,
        "pred_x_t": torch.stack([step.x_next for step in steps]),
        "pred_x_0_last": (1 - SIGMA_MIN) * last.x - (SIGMA_MIN + (1 - SIGMA_MIN) * last.t) * last.velocity,
    }
    for name in sorted(results.keys() & arrays.keys()):
        report.compare(f"{file}: {name}", results[name], arrays[name])
    return steps


def check_structure_sampler(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check guidance inside an interval, over a dense grid."""
    _check_sampler(file, arrays, golden, report, golden.network(file, "SparseStructureFlowModel"))
    return {"noise", "cond", "neg_cond", "samples", "pred_x_t", "pred_x_0_last"}


def check_latent_sampler(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check guidance inside an interval, over voxels, and the denormalised latents."""
    flow, grid = golden.network(file, "SLatFlowModel"), VoxelGrid(arrays["coords"])
    steps = _check_sampler(file, arrays, golden, report, lambda x, t, cond: flow(x, grid, t, cond))
    if "slat" in arrays:
        slat = steps[-1].x_next * torch.tensor(SLAT_STD) + torch.tensor(SLAT_MEAN)
        report.compare(f"{file}: slat", slat, arrays["slat"])
    return {"coords", "noise", "cond", "neg_cond", "samples", "pred_x_t", "pred_x_0_last", "slat"}


def check_other_samplers(file: str, arrays: Arrays, golden: Golden, report: Report) -> set[str]:
    """Check guidance at every step, and at none, from the structure sampler's noise and condition."""
    inputs = golden.arrays("ss_sampler.npz")
    flow = golden.network("ss_sampler.npz", "SparseStructureFlowModel")
    params = {}
    if "samples_cfg" in arrays:
        params["samples_cfg"] = _params(golden, "ss_sampler_cfg_params")
    if "samples_plain" in arrays and (stated := re.search(r"steps=(\d+)", golden.note(file))):
        params["samples_plain"] = SamplerParams(int(stated[1]), cfg_strength=0.0)
    for name, settings in params.items():
        steps, _ = _sample(inputs, settings, flow)
        report.compare(f"{file}: {name}", steps[-1].x_next, arrays[name])
    return set(params)


def check_guidance_schedules(key: str, schedules: dict[str, str], report: Report) -> None:
    """Check the guided steps: {"steps_lo_hi": "GG.."} under a key such as cfg_schedule_rescale3_G_is_guided."""
    rescale = re.search(r"rescale([\d.]+)", key)
    for name, expected in schedules.items():
        steps, lo, hi = name.split("_")
        params = SamplerParams(int(steps), 1.0, (float(lo), float(hi)), float(rescale[1]) if rescale else 1.0)
        times = schedule(params.steps, params.rescale_t)[:-1]
        marks = ["G" if params.guided(t) else "." for t in times]
        report.compare_exactly(f"manifest: {key} {name}", marks, list(expected))
