import pytest

from miner.config import shipped_config
from miner.config.phase_files import NamedPhase, load_phase
from miner.gpu.models import PhaseModels
from miner.phases.selector import PhaseSelector
from miner.phases.state import PhaseChoice


@pytest.mark.parametrize(
    ("missing", "words"),
    [("text", "text tasks, four of five"), ("image", "image tasks, one of five"), (None, "")],
)
def test_a_phase_that_cannot_answer_one_type_says_so(
    missing: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    demo = load_phase("demo", shipped_config() / "miner.yaml").settings
    named = NamedPhase("partial", demo if missing is None else demo.model_copy(update={missing: None}))
    PhaseSelector(PhaseChoice.single(named), PhaseModels("0", named.settings.models_key))
    assert caplog.messages == (
        [f"Phase partial has no checkpoint for {words}: they get the empty result"] if words else []
    )
