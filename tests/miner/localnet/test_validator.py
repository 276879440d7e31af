"""What the local validator thinks of results."""

import base64
import dataclasses

import bittensor as bt
import pytest

from miner.localnet.validator import VALID_SCORE, LocalValidator, check_result, free_port
from miner.subnet.protocol import ImageTask
from pipeline import ReferenceViews, Splats, spz
from pipeline.rendering.cameras import orbit
from pipeline.scoring.similarity import render_rgba
from tests.support.generated import make_splats

CAMERAS = orbit([30.0, 210.0], -20.0, 2.5, 49.1, 48)


def packed(splats: Splats) -> str:
    return base64.b64encode(spz.to_bytes(splats)).decode()


@pytest.fixture
def reference() -> ReferenceViews:
    """Of what make_splats() makes."""
    return ReferenceViews(CAMERAS, render_rgba(make_splats(), CAMERAS))


async def test_a_result_is_judged_by_how_it_looks(wallets: dict[str, bt.Wallet], reference: ReferenceViews) -> None:
    validator = LocalValidator(wallets["validator"], free_port(), lambda _: True)
    task = ImageTask(id="a", prompt="")
    validator.add_reference("a", reference)
    like, unlike = make_splats(), make_splats()
    unlike = dataclasses.replace(unlike, means=unlike.means * 0.3)
    delivery, score = await validator.check(task, packed(like))
    assert delivery.likeness is not None
    assert (delivery.verdict, score) == ("valid", delivery.likeness.score)
    assert score is not None
    assert score > 0.9
    delivery, score = await validator.check(task, packed(unlike))
    assert delivery.verdict == "valid"
    assert score is not None
    assert score < validator.rules.timing.quality_threshold
    await validator.stop()


def test_without_a_reference_whatever_is_valid_is_good() -> None:
    found = check_result("a", "pull", packed(make_splats()))
    assert (found.likeness, found.score) == (None, VALID_SCORE)


def test_what_is_invalid_is_not_looked_at(reference: ReferenceViews) -> None:
    found = check_result("a", "pull", packed(make_splats(100)), reference)
    assert (found.splats, found.likeness, found.score) == (None, None, 0.0)
