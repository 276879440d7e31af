"""Weights by formula are those that the golden scores were recorded with."""

import json

import pytest

from tests.support.formula_weights import SCORE_DATA, fingerprint, formula_weights, golden_shapes


@pytest.mark.parametrize("network", ["text", "quality", "image", "lpips"])
def test_the_sums_are_those_of_the_recording(network: str) -> None:
    recorded = json.loads((SCORE_DATA / "networks.json").read_text())[network]["fingerprint"]
    assert fingerprint(formula_weights(golden_shapes(network))) == pytest.approx(recorded, rel=1e-9)
