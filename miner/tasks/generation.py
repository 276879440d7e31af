"""From a phase, its models and a prompt to packed candidates: the one way of the miner, the commands and benchmarks."""

import math
import secrets

from miner.config.phase import Phase
from miner.gpu import LoadedModels
from miner.tasks.task import InvalidResult
from pipeline import (
    BestOfN,
    Container,
    PackedSplats,
    Prompt,
    Request,
    Splats,
    TextToImageParams,
    with_faint,
)


def make_request(prompt: Prompt, seed: int | None, phase: Phase) -> Request:
    """Return the request that a phase makes of a prompt; a seed of None is replaced by a random one."""
    structure, latents = phase.samplers
    drawing = phase.text_to_image
    return Request(
        prompt=with_faint(prompt, phase.background.faint),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        sparse_structure_sampler_params=structure,
        slat_sampler_params=latents,
        voxel_limit=phase.max_voxels.limit() if phase.max_voxels else None,
        text_to_image_params=TextToImageParams(drawing.steps, drawing.guidance) if drawing else TextToImageParams(),
    )


def best_of_n(
    models: LoadedModels, request: Request, phase: Phase, container: Container, deadline: float = math.inf
) -> BestOfN:
    """Return the search for the best of a phase's candidates; none is begun after `deadline` of time.monotonic()."""

    def pack(splats: Splats) -> PackedSplats:
        try:
            exported = phase.export.apply(splats)
        except ValueError as error:
            raise InvalidResult(f"export is impossible: {error}") from None
        return container.pack(exported)

    # The models may be shared with a phase that scores.
    scorer = models.scorer if phase.scorer else None
    # Without a scorer, whose weights may be missing, no candidate is known to be better than another.
    count = phase.candidates.count if scorer else 1
    return BestOfN(
        models.backend, request, pack, scorer, count=count, seconds=phase.candidates.seconds, deadline=deadline
    )
