from __future__ import annotations

import threading
from itertools import pairwise
from pathlib import Path

import pytest

from miner.config.loader import shipped_config
from miner.config.phase import Phase
from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.phases.state import MOST_BEFORE, Arm, PhaseChoice, PhaseState, StateFile

CONFIG = shipped_config() / "miner.yaml"
BASELINE, TEST3, PHASE3 = (PhaseChoice.single(load_phase(name, CONFIG)) for name in ("baseline", "test3", "phase3"))


def state_of(current: PhaseChoice | PhaseChoice = BASELINE) -> PhaseState:
    return PhaseState(at=1.0, action="start", current=current)


def split_of(**weights: int) -> PhaseChoice:
    settings = {"baseline": BASELINE.settings, "test3": TEST3.settings, "phase3": PHASE3.settings}
    arms = {name: Arm(weight=weight, settings=settings[name]) for name, weight in weights.items()}
    return PhaseChoice(experiment="e1", seed=7, arms=arms)


def unchanged(phase: PhaseChoice) -> NamedPhase:
    return phase.named


def names(state: PhaseState) -> list[str]:
    return [phase.phase for phase in state.before]


def test_going_back_is_the_inverse_of_applying() -> None:
    state = state_of()
    for choice in (TEST3, PHASE3, BASELINE):
        state = state.apply(choice, "apply")
    assert names(state) == ["baseline", "test3", "phase3"]
    seen = []
    while state.before:
        state = state.roll_back(unchanged, "rollback")
        assert isinstance(state.current, PhaseChoice)
        seen.append(state.current.phase)
    assert seen == ["phase3", "test3", "baseline"]
    with pytest.raises(OperatorError, match="no phase to go back to"):
        state.roll_back(unchanged, "rollback")


def test_applying_the_same_again_leaves_nothing_to_go_back_to() -> None:
    state = state_of().apply(BASELINE, "apply")
    assert state.before == ()
    state = state.apply(TEST3, "apply").apply(TEST3, "apply")
    assert names(state) == ["baseline"]


def test_a_split_is_left_for_the_phase_from_before_it() -> None:
    state = state_of().apply(split_of(phase3=1, baseline=1), "apply")
    assert state.roll_back(unchanged, "rollback").current.same_as(BASELINE)
    assert names(state.apply(PHASE3, "automatic")) == ["baseline"]
    # What won is what ran before: there is nothing else to go back to.
    assert state.apply(BASELINE, "automatic").before == ()


def test_the_same_name_with_other_settings_is_another_phase() -> None:
    steps = BASELINE.settings.slat_sampler_params.model_copy(update={"steps": 21})
    changed = PhaseChoice(
        phase="baseline", settings=BASELINE.settings.model_copy(update={"slat_sampler_params": steps})
    )
    state = state_of().apply(changed, "apply", "its file was changed")
    assert names(state) == ["baseline"]
    back = state.roll_back(lambda _: changed.named, "rollback")
    assert isinstance(back.current, PhaseChoice)
    assert back.current.settings == BASELINE.settings
    # The file says something else, so it must not be followed back at once.
    assert not back.current.follows
    gone = state.roll_back(lambda _: None, "rollback").current
    assert isinstance(gone, PhaseChoice)
    assert not gone.follows


def test_not_all_that_ever_ran_is_kept() -> None:
    state = state_of()
    for number in range(2 * MOST_BEFORE):
        state = state.apply((TEST3, PHASE3)[number % 2], "apply")
    assert len(state.before) == MOST_BEFORE


def test_arms_must_share_what_is_loaded_and_differ_in_what_they_do() -> None:
    demo = Arm(weight=1, settings=load_phase("demo", CONFIG).settings)
    mixed = split_of(phase3=1).model_copy(update={"arms": {**split_of(phase3=1).arms, "demo": demo}})
    with pytest.raises(ValueError, match="need different networks"):
        _ = mixed.drawing
    twin = split_of(phase3=1).model_copy(
        update={"arms": {name: Arm(weight=1, settings=PHASE3.settings) for name in ("phase3", "copy")}}
    )
    with pytest.raises(ValueError, match="the same settings"):
        _ = twin.drawing
    with pytest.raises(ValueError, match="at least two arms"):
        _ = split_of(phase3=1).drawing
    assert split_of(phase3=50, baseline=50).drawing.seed == 7


@pytest.mark.parametrize("current", [PHASE3, split_of(phase3=70, baseline=30)])
def test_the_file_holds_all_of_it(tmp_path: Path, current: PhaseChoice | PhaseChoice) -> None:
    file = StateFile(tmp_path / "new" / "folder")
    assert file.read() is None
    state = state_of().apply(TEST3, "apply").apply(current, "apply", "why: not")
    assert file.change(lambda _: state) == state
    assert file.read() == state
    assert file.change(lambda _: None) is None
    assert file.read() == state
    # Of the partial file nothing is left.
    assert sorted(path.name for path in file.folder.iterdir()) == [".phase.yaml.lock", "phase.yaml"]


def test_two_that_change_it_do_not_overwrite_each_other(tmp_path: Path) -> None:
    """The miner and the script."""
    file = StateFile(tmp_path)
    file.change(lambda _: state_of())

    def add(choice: PhaseChoice) -> None:
        for _ in range(4):
            file.change(lambda state: state.apply(choice, "apply") if state else None)

    threads = [threading.Thread(target=add, args=(choice,)) for choice in (TEST3, PHASE3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    final = file.read()
    assert final is not None
    # Eight changes one after the other: each different one left its predecessor behind.
    assert final.before[0].phase == "baseline"
    chain = [*names(final), final.current.short]
    assert all(a != b for a, b in pairwise(chain))


@pytest.mark.parametrize("content", ["{", "current: 3\n", "at: 1\n", "\xff\xfe", "a: " + "[" * 3000])
def test_a_damaged_file_names_the_cure(tmp_path: Path, content: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(content, encoding="latin-1")
    with pytest.raises(OperatorError, match=r"phase.yaml cannot be read .*: delete it") as caught:
        file.read()
    assert "\n" not in str(caught.value)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match=r"file/phase.yaml cannot be changed: File exists"):
        StateFile(tmp_path / "file").change(lambda _: state_of())


def test_settings_of_phases_are_checked_when_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.change(lambda _: state_of())
    file.path.write_text(file.path.read_text().replace("steps: 30", "steps: 0"))
    with pytest.raises(OperatorError, match="cannot be read"):
        file.read()


def test_settings_survive_unabridged(phase: Phase) -> None:
    assert PhaseChoice.model_validate(PhaseChoice(phase="x", settings=phase).model_dump(mode="json")).settings == phase
