from __future__ import annotations

from pathlib import Path

import pytest
import torch

from miner.phase_settings import ExportSettings, Phase
from miner.scheduler import Scheduler
from miner.settings import SpzSettings, load_settings, parser
from miner.tasks import InvalidResult, Task, TaskRunner
from pipeline import Asset, FormatError, Request, spz
from tests.miner.conftest import instant_generate, make_asset, phases_with


async def run_one(phase: Phase, container: SpzSettings, image: str, generate: object = instant_generate) -> Asset:
    scheduler = Scheduler()
    scheduler.start()
    phases = phases_with(phase, generate)  # type: ignore[arg-type]
    try:
        result = await TaskRunner(scheduler, phases, container).run(Task("t", "image", image, 0.0, seed=5))
    finally:
        scheduler.stop(10.0)
    decoded = spz.from_bytes(result.data)
    return Asset(decoded, result.asset.seed, 0, result.asset.seconds)


async def test_splats_leave_as_they_were_generated(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    sent = await run_one(phase, container, image_base64)
    original = make_asset(Request(None, 5, None, None)).splats  # type: ignore[arg-type]
    assert (sent.splats.means - original.means).abs().max() <= 2**-13


async def test_the_phase_may_ask_for_an_extent(config_folder: Path, container: SpzSettings, image_base64: str) -> None:
    file = config_folder / "phases" / "phase3.yaml"
    file.write_text(file.read_text() + "\nexport: {extent: 1.5}\n")
    settings = load_settings(parser().parse_args(["--config", str(config_folder / "miner.yaml")]))
    means = (await run_one(settings.configured.settings, container, image_base64)).splats.means
    sides = means.amax(0) - means.amin(0)
    assert float(sides.max()) == pytest.approx(1.5, abs=2**-12)
    assert float((means.amax(0) + means.amin(0)).abs().max()) <= 2**-11


async def test_the_phase_may_set_objects_upright(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    turned = phase.model_copy(update={"export": ExportSettings(upright=True, extent=1.5)})
    upside_down = phase.model_copy(update={"export": ExportSettings(extent=1.5)})
    ours, theirs = [(await run_one(p, container, image_base64)).splats.means for p in (turned, upside_down)]
    assert torch.allclose(ours, theirs * torch.tensor([1.0, -1.0, -1.0]), atol=2**-12)


async def test_splats_too_far_out_for_the_container_are_not_sent(
    phase: Phase, container: SpzSettings, image_base64: str
) -> None:
    def far_out(request: Request, on_step: object) -> Asset:
        asset = make_asset(request)
        asset.splats.means[0, 0] = 3000.0
        return asset

    with pytest.raises(FormatError, match="3000"):
        await run_one(phase, container, image_base64, far_out)


async def test_too_few_gaussians_are_not_sent(phase: Phase, container: SpzSettings, image_base64: str) -> None:
    with pytest.raises(InvalidResult, match="6999"):
        await run_one(phase, container, image_base64, lambda request, on_step: make_asset(request, 6999))
