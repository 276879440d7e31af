"""Records of tasks, by the events that the ledger and the metrics get."""

import pytest

from miner.ledger.events import (
    ArmAssignment,
    Event,
    GenerationFailed,
    PhaseAssignment,
    Stratum,
    SubmissionAnswered,
    TaskStarted,
)
from miner.ledger.outcomes import Outcome
from miner.ledger.recorder import TaskRecorder
from pipeline import EmptyStructure

A, B = PhaseAssignment("a", "ha", None), PhaseAssignment("b", "hb", ArmAssignment("e", "b", 3))


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def recorder(events: list[Event]) -> TaskRecorder:
    """A recorder without a ledger: what it records goes to the observer alone."""
    return TaskRecorder(None, "1.0", {"5V": 3}.get, observe=events.append)


def test_each_event_of_a_task_has_its_key(recorder: TaskRecorder, events: list[Event]) -> None:
    record = recorder.open("push", "5V", "t", "text")
    assert (record.task_id, record.stratum, record.assignment) == ("t", Stratum("5V", "text"), None)
    assert events == []
    record.start(B)
    record.failed(EmptyStructure("nothing"))
    record.answered(Outcome.SKIPPED, None, 1300.0)
    started, failed, answered = events
    assert isinstance(started, TaskStarted)
    assert (started.transport, started.validator, started.uid, started.task_type) == ("push", "5V", 3, "text")
    assert (started.task_id, started.assignment, started.code_version) == ("t", B, "1.0")
    assert isinstance(failed, GenerationFailed)
    assert failed.error == "EmptyStructure: nothing"
    assert isinstance(answered, SubmissionAnswered)
    assert (answered.outcome, answered.score, answered.cooldown_until) == (Outcome.SKIPPED, None, 1300.0)
    assert {event.key for event in (started, failed, answered)} == {record.key}


def test_a_validator_that_is_not_in_the_subnet_has_no_uid(recorder: TaskRecorder, events: list[Event]) -> None:
    recorder.open("pull", "5X", "t", "image").start(A)
    (started,) = events
    assert isinstance(started, TaskStarted)
    assert started.uid is None


def test_a_task_begun_again_is_one_row_unless_its_assignment_changed(
    recorder: TaskRecorder, events: list[Event]
) -> None:
    record = recorder.open("pull", "5V", "t", "image")
    record.start(A)
    first = record.key
    record.start(PhaseAssignment("a", "ha", None))
    assert (record.key, len(events)) == (first, 1)
    record.start(B)
    assert record.key > first
    assert [event.assignment for event in events if isinstance(event, TaskStarted)] == [A, B]
