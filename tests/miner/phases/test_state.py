import threading
from itertools import pairwise
from pathlib import Path
from textwrap import indent

import pytest

from miner.config.loader import shipped_config
from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.phases.files import PhaseFiles
from miner.phases.state import MAX_HISTORY, Arm, PhaseChoice, PhaseState, StateFile

CONFIG = shipped_config() / "miner.yaml"
PHASES = {name: load_phase(name, CONFIG) for name in ("baseline", "test3", "phase3", "demo")}
BASELINE, TEST3, PHASE3, DEMO = map(PhaseChoice.single, PHASES.values())


def state_of(current: PhaseChoice = BASELINE) -> PhaseState:
    return PhaseState(at=1.0, action="start", current=current)


def split_of(**weights: int) -> PhaseChoice:
    arms = {name: Arm(weight=weight, settings=PHASES[name].settings) for name, weight in weights.items()}
    return PhaseChoice(experiment="e1", seed=7, arms=arms)


def roll_back(state: PhaseState, config: Path = CONFIG) -> PhaseState:
    return state.roll_back(PhaseFiles(config, StateFile(config.parent)).choose, "rollback", "rolled back")


def names(state: PhaseState) -> list[str]:
    return [choice.name for choice in state.before]


def test_going_back_is_the_inverse_of_applying() -> None:
    state = state_of()
    for choice in (TEST3, PHASE3, BASELINE):
        state = state.apply(choice, "apply").taken_over()
    assert names(state) == ["baseline", "test3", "phase3"]
    seen = []
    while state.before:
        state = roll_back(state)
        seen.append(state.current.name)
        assert (state.action, state.reason) == ("rollback", "rolled back")
    assert seen == ["phase3", "test3", "baseline"]
    with pytest.raises(OperatorError, match="no phase to go back to"):
        roll_back(state)


def test_applying_the_same_again_leaves_nothing_to_go_back_to() -> None:
    state = state_of().apply(BASELINE, "apply")
    assert state.before == ()
    state = state.apply(TEST3, "apply").taken_over().apply(TEST3, "apply")
    assert names(state) == ["baseline"]


def test_what_never_became_ready_is_not_gone_back_to() -> None:
    state = state_of().apply(TEST3, "apply").apply(PHASE3, "apply")
    assert names(state) == ["baseline"]
    assert roll_back(state).current.same_as(BASELINE)
    state = state.taken_over().apply(BASELINE, "apply").apply(DEMO, "apply")
    assert names(state) == ["baseline", "phase3"]


def test_a_split_is_left_for_the_phase_from_before_it() -> None:
    state = state_of().apply(split_of(phase3=1, baseline=1), "apply")
    assert roll_back(state).current.same_as(BASELINE)
    assert names(state.apply(PHASE3, "automatic")) == ["baseline"]
    # What won is what ran before: there is nothing else to go back to.
    assert state.apply(BASELINE, "automatic").before == ()


def test_the_same_name_with_other_settings_is_another_phase(tmp_path: Path) -> None:
    settings = PHASES["baseline"].settings
    steps = settings.slat_sampler_params.model_copy(update={"steps": 21})
    changed = NamedPhase("baseline", settings.model_copy(update={"slat_sampler_params": steps}))
    state = state_of().apply(PhaseChoice.single(changed), "apply", "its file was changed")
    assert names(state) == ["baseline"]
    file = tmp_path / "phases" / "baseline.yaml"
    file.parent.mkdir()
    # If its file says something else, or nothing, it must not be followed back at once.
    for content in (changed.yaml, "broken"):
        file.write_text(content)
        back = roll_back(state, tmp_path / "miner.yaml").current
        assert (back.phases, back.follows) == ((PHASES["baseline"],), False)
    assert roll_back(state).current.follows


def test_not_all_that_ever_ran_is_kept() -> None:
    state = state_of()
    for number in range(2 * MAX_HISTORY):
        state = state.apply((TEST3, PHASE3)[number % 2], "apply").taken_over()
    assert len(state.before) == MAX_HISTORY


def test_arms_must_share_their_models_and_differ_in_what_they_do() -> None:
    with pytest.raises(ValueError, match="need different models"):
        _ = split_of(phase3=1, demo=1).assignment
    settings = PHASES["phase3"].settings
    twins = PhaseChoice(experiment="e1", arms={name: Arm(settings=settings) for name in ("phase3", "copy")})
    with pytest.raises(ValueError, match="the same settings"):
        _ = twins.assignment
    with pytest.raises(ValueError, match="at least two arms"):
        _ = PHASE3.assignment
    assert split_of(phase3=50, baseline=50).assignment.seed == 7


def test_a_choice_of_one_phase_and_of_several() -> None:
    split = split_of(phase3=70, baseline=30)
    assert (PHASE3.is_split, PHASE3.name, PHASE3.short_label) == (False, "phase3", "phase3")
    assert PHASE3.label == f"phase phase3 ({PHASES['phase3'].config_hash})"
    assert (split.is_split, split.name, split.short_label) == (True, "phase3", "phase3=70 baseline=30")
    assert split.label == "split phase3=70 baseline=30"
    assert split.phases == (PHASES["phase3"], PHASES["baseline"])
    with pytest.raises(ValueError, match="at least 1 item"):
        PhaseChoice(arms={})


def test_choices_are_the_same_if_they_generate_alike() -> None:
    assert PHASE3.same_as(PhaseChoice.single(PHASES["phase3"], follows=False))
    assert not PHASE3.same_as(TEST3)
    assert not PHASE3.same_as(PhaseChoice.single(NamedPhase("copy", PHASES["phase3"].settings)))
    split = split_of(phase3=70, baseline=30)
    assert split.same_as(split.model_copy(update={"promote": True}))
    assert not split.same_as(split.model_copy(update={"experiment": "e2"}))
    assert not split.same_as(PHASE3)
    assert not PHASE3.same_as(split)


@pytest.mark.parametrize("current", [PHASE3, split_of(phase3=70, baseline=30)])
def test_the_file_holds_all_of_it(tmp_path: Path, current: PhaseChoice) -> None:
    file = StateFile(tmp_path / "new" / "folder")
    assert file.read() is None
    state = state_of().apply(TEST3, "apply").apply(current, "apply", "why: not")
    assert file.change(lambda _: state) == (None, state)
    assert file.read() == state
    assert file.change(lambda _: None) == (state, None)
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
    assert final.before[0].name == "baseline"
    chain = [*names(final), final.current.name]
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
    with pytest.raises(OperatorError, match=r"file/phase.yaml cannot be written: File exists"):
        StateFile(tmp_path / "file").change(lambda _: state_of())


def test_settings_of_phases_are_checked_when_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.change(lambda _: state_of())
    file.path.write_text(file.path.read_text().replace("steps: 30", "steps: 0"))
    with pytest.raises(OperatorError, match="cannot be read"):
        file.read()


def test_settings_survive_unabridged() -> None:
    assert PhaseChoice.model_validate(DEMO.model_dump(mode="json")) == DEMO


# As the first release wrote the file.


def first_release(current: str) -> str:
    return f"""# What runs, and what ran before.
configured: phase3
at: 1764000000.5
action: apply
reason: ''
current:
{indent(current, "  ")}
before:
- phase: test3
  follows: false
  settings:
{indent(PHASES["test3"].yaml, "    ")}
- phase: baseline
  follows: true
  settings:
{indent(PHASES["baseline"].yaml, "    ")}
"""


def test_a_file_of_the_first_release_is_read(tmp_path: Path) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(
        first_release(f"phase: phase3\nfollows: false\nsettings:\n{indent(PHASES['phase3'].yaml, '  ')}")
    )
    state = file.read()
    assert state == PhaseState(
        configured="phase3",
        at=1764000000.5,
        action="apply",
        current=PhaseChoice.single(PHASES["phase3"], follows=False),
        before=(PhaseChoice.single(PHASES["test3"], follows=False), BASELINE),
    )
    # And goes on as a file of this release.
    _, changed = file.change(lambda state: roll_back(state) if state else None)
    assert file.read() == changed
    assert changed is not None
    assert (changed.current.name, names(changed)) == ("baseline", ["test3"])


def test_an_experiment_of_the_first_release_goes_on(tmp_path: Path) -> None:
    arms = "".join(
        f"  {name}:\n    weight: {weight}\n    settings:\n{indent(PHASES[name].yaml, '      ')}"
        for name, weight in (("phase3", 70), ("baseline", 30))
    )
    file = StateFile(tmp_path)
    file.path.write_text(first_release(f"experiment: e1\nseed: 7\narms:\n{arms}promote: true\nrollback: false\n"))
    state = file.read()
    assert state is not None
    assert state.current == split_of(phase3=70, baseline=30).model_copy(update={"promote": True})
    assert names(state) == ["test3", "baseline"]


@pytest.mark.parametrize("rest", ["", "settings: 3\n", "settings: {steps: 3}\n"])
def test_a_damaged_file_of_the_first_release_names_the_cure(tmp_path: Path, rest: str) -> None:
    file = StateFile(tmp_path)
    file.path.write_text(first_release(f"phase: phase3\n{rest}"))
    with pytest.raises(OperatorError, match=r"cannot be read .*: delete it"):
        file.read()
