"""From a phase and a prompt to what is made of it: the one way of the miner, the commands and the scripts."""

import math
import secrets

from miner.config import SpzSettings
from miner.config.phase import Phase
from pipeline import (
    BestOfN,
    Container,
    Prompt,
    Request,
    ResultFormat,
    UpAxis,
    with_cut_out,
    with_template,
)


def make_request(prompt: Prompt, seed: int | None, phase: Phase) -> Request:
    """Return the request that a phase makes of a prompt; a seed of None is replaced by a random one."""
    structure, latents = phase.samplers
    return Request(
        prompt=with_template(with_cut_out(prompt, phase.cut_out), phase.template),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        sparse_structure_sampler_params=structure,
        slat_sampler_params=latents,
        voxel_limit=phase.max_voxels.limit() if phase.max_voxels else None,
        text_to_image_params=phase.text_to_image_params,
    )


def make_container(data_format: ResultFormat, up: UpAxis, spz: SpzSettings, phase: Phase) -> Container:
    """Return the file that a phase's results are delivered in."""
    return Container(data_format, up, spz.level, spz.workers, phase.export.extent)


def best_of_n(request: Request, phase: Phase, can_score: bool, deadline: float = math.inf) -> BestOfN:
    """Return the choice among a phase's candidates; none is begun after `deadline` of time.monotonic().

    Without a scorer, whose weights may be missing, no candidate is known to be better than another: there is one. The
    models may have a scorer that the phase does not, see `ModelsKey.serves`.
    """
    candidates = phase.candidates
    count = candidates.count if can_score and phase.scorer else 1
    return BestOfN(
        request, count, candidates.seconds, deadline, has_previews=count > 1 and candidates.preview_steps is not None
    )
