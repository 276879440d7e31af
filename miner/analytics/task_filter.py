"""Which tasks of the ledger a report or the dashboard is about."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from miner.errors import OperatorError
from miner.ledger import ExperimentRow, LedgerReader, TaskRow, ValidatorRow
from miner.words import plural

# Hexadecimal digits from which a text is taken for the beginning of a phase's hash.
MIN_HASH_DIGITS = 4


@dataclass(frozen=True)
class Choices:
    """What a ledger's tasks can be filtered by: its phases, by name and hash, and its validators."""

    phases: tuple[tuple[str, str], ...]
    validators: tuple[ValidatorRow, ...]

    @staticmethod
    def of(reader: LedgerReader) -> "Choices":
        """Read all that occur in a ledger."""
        return Choices(tuple(reader.task_phases()), tuple(reader.validators()))


@dataclass(frozen=True)
class TaskFilter:
    """The tasks assigned from `since` until before `until`, unix seconds, that have one of each kind of value.

    `phases` are names, beginnings of hashes, or both ("phase3 1a2b3c4d"); `validators` are hotkeys, beginnings of
    hotkeys, or the uids that they had last. What is empty lets every task through. Of all these, only the `last` ones.
    """

    since: float = 0.0
    until: float = math.inf
    phases: tuple[str, ...] = ()
    validators: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    last: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all tasks of the period are let through."""
        return not (self.phases or self.validators or self.types) and self.last is None

    def read(
        self, reader: LedgerReader, without: Collection[str] = (), choices: Choices | None = None
    ) -> list[TaskRow]:
        """Return the tasks in the order of their assignment, without some columns, as `LedgerReader.tasks` does.

        choices: those of the ledger, if they were read already. Raises OperatorError if the ledger has no task at all
        of a phase or validator that is named.
        """
        if choices is None and (self.phases or self.validators):
            choices = Choices.of(reader)
        phases = self._resolve_phases(choices.phases) if choices and self.phases else None
        validators = self._resolve_validators(choices.validators) if choices and self.validators else None
        chooses = bool(self.phases or self.validators or self.types)
        tasks = reader.tasks(self.since, without=without, until=self.until, last=None if chooses else self.last)
        if phases is not None:
            tasks = [task for task in tasks if (task.phase, task.config_hash) in phases]
        if validators is not None:
            tasks = [task for task in tasks if task.validator in validators]
        if self.types:
            tasks = [task for task in tasks if task.task_type in self.types]
        return tasks if self.last is None else tasks[max(0, len(tasks) - self.last) :]

    def choose(self, experiments: Iterable[ExperimentRow], tasks: Iterable[TaskRow]) -> list[ExperimentRow]:
        """Return the experiments that concern the tasks let through: all, or of a part those that assigned any."""
        assigning = {task.experiment for task in tasks}
        return [row for row in experiments if self.is_whole or row.name in assigning]

    def _resolve_phases(self, known: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
        found = set[tuple[str, str]]()
        for text in self.phases:
            matching = {phase for phase in known if _is_phase(text, *phase)}
            if not matching:
                names = sorted({name for name, _ in known})
                raise OperatorError(f"the ledger has no task of phase {text!r}; it has {_listing(names)}")
            found |= matching
        return found

    def _resolve_validators(self, known: Sequence[ValidatorRow]) -> set[str]:
        found = set[str]()
        for text in self.validators:
            matching = {row.validator for row in known if row.validator.startswith(text) or str(row.uid) == text}
            if not matching:
                ordered = sorted(known, key=lambda row: (row.uid is None, row.uid))
                uids = (f"{row.validator[:8]} (uid {row.uid})" for row in ordered)
                raise OperatorError(f"the ledger has no task of validator {text!r}; it has {_listing(uids)}")
            found |= matching
        return found

    def __str__(self) -> str:
        """Return what is let through beside the period, "" if everything is."""
        parts = []
        for noun, values in (("phase", self.phases), ("validator", self.validators), ("type", self.types)):
            parts += [f"{noun} {' or '.join(values)}"] if values else []
        parts += [f"the last {plural(self.last, 'task')}"] if self.last is not None else []
        return ", ".join(parts)


def _is_phase(text: str, name: str, config_hash: str) -> bool:
    start = text.removeprefix(f"{name} ")
    return text == name or (len(start) >= MIN_HASH_DIGITS and config_hash.startswith(start))


def _listing(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
