"""Small versions of the measurements in scripts.validation.gate."""

import numpy as np
import pytest

from scripts.validation.gate import CANDIDATES, WORLDS, Theory, simulate


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_the_simulated_gates_are_those_of_theory(name: str, candidates: int) -> None:
    simulated = simulate(np.random.default_rng(1), WORLDS[name], candidates, runs=6, tasks=1500)
    theory = Theory(WORLDS[name], candidates).rates()
    for gate in ("none", "threshold", "oracle"):
        assert simulated[gate][0] == pytest.approx(theory[gate], rel=0.06, abs=0.02)
    # It learns on the way.
    assert simulated["auto, then"][0] == pytest.approx(theory["auto"], rel=0.06)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("candidates", CANDIDATES)
def test_no_gate_beats_the_oracle_and_auto_is_close(name: str, candidates: int) -> None:
    rates = Theory(WORLDS[name], candidates).rates()
    assert rates["oracle"] >= max(rates.values())
    assert rates["auto"] > 0.96 * rates["oracle"]
    assert rates["auto"] > 1.02 * rates["none"]
