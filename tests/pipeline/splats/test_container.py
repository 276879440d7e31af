"""The file of a result: packed, decoded once, and verified."""

import math
from dataclasses import replace

import pytest
import torch

from pipeline.errors import FormatError
from pipeline.splats import ply, spz
from pipeline.splats.container import Container, ResultFormat
from pipeline.splats.splats import Splats, flip_up_axis
from tests.pipeline.splats.test_splats import cloud


@pytest.fixture
def splats() -> Splats:
    return cloud(200)


def test_the_default_is_spz_as_the_subnet_writes_it(splats: Splats) -> None:
    packed = Container().pack(splats)
    assert packed.data == spz.to_bytes(flip_up_axis(splats), level=1, workers=0)
    assert torch.equal(packed.splats.means, spz.from_bytes(packed.data).means)
    assert not torch.equal(packed.splats.means, splats.means)


def test_level_and_workers_are_those_of_spz(splats: Splats) -> None:
    packed = Container("spz", "-y", level=22, workers=1).pack(splats)
    assert packed.data == spz.to_bytes(splats, level=22, workers=1)


def test_ply_holds_the_same_values(splats: Splats) -> None:
    packed = Container("ply", "-y").pack(splats)
    assert packed.data == ply.to_bytes(splats)
    assert torch.equal(packed.splats.means, flip_up_axis(splats).means)


@pytest.mark.parametrize("form", ["spz", "ply"])
def test_splats_that_the_format_cannot_hold_are_refused(splats: Splats, form: ResultFormat) -> None:
    broken = replace(splats, means=splats.means.clone().fill_(math.nan))
    with pytest.raises(FormatError, match="means"):
        Container(form).pack(broken)


def test_a_file_that_comes_back_changed_is_refused(splats: Splats, monkeypatch: pytest.MonkeyPatch) -> None:
    other = spz.to_bytes(replace(splats, means=splats.means + 1))
    monkeypatch.setattr(spz, "to_bytes", lambda *_, **__: other)
    with pytest.raises(FormatError, match="SPZ changed the means"):
        Container().pack(splats)
