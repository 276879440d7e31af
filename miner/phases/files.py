"""The phase files beside a settings file, and what a miner makes of them and of the choice among them."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path

from miner.config import phase_folders
from miner.config.phase_files import NamedPhase, load_phase
from miner.errors import OperatorError
from miner.phases.state import PhaseChoice, PhaseState, StateError, StateFile

log = logging.getLogger(__name__)

FILE_CHANGED = "its file was changed"

# What the files hold and the miner does not run, in words, with the level at which the log tells it.
Problems = dict[str, int]


@dataclass(frozen=True)
class Beginning:
    """The state in which a miner finds the file, and the one in which it is to begin, being configured with a phase."""

    written: PhaseState | None
    state: PhaseState
    configured: str


@dataclass(frozen=True)
class PhaseFiles:
    """The phase files beside a settings file, and the state file that chooses among them."""

    config: Path
    state: StateFile

    def choose(self, phase: NamedPhase) -> PhaseChoice:
        """Return the choice of a phase that was read earlier; it follows its file if that has not changed since."""
        try:
            follows = load_phase(phase.name, self.config).config_hash == phase.config_hash
        except OperatorError:
            follows = False
        return PhaseChoice.single(phase, follows=follows)

    def paths(self) -> list[Path]:
        """Return the files to watch."""
        return [*(file for folder in phase_folders(self.config) for file in folder.glob("*.yaml")), self.state.path]

    def begin(self, configured: NamedPhase) -> Beginning:
        """Return what a miner that is started with a phase is to run; nothing is written. Raise OperatorError."""
        written, name, choice = self.state.read(), configured.name, PhaseChoice.single(configured)
        if written is None:
            return Beginning(None, PhaseState(at=time.time(), action="start", current=choice, ready=False), name)
        if written.configured not in (None, name):
            # The settings or the command line were changed after whatever was applied before.
            return Beginning(written, written.apply(choice, "start", f"the miner was started with {name}"), name)
        return Beginning(written, self.follow(written), name)

    def confirm(self, beginning: Beginning) -> PhaseState:
        """Write down and return what the miner runs, now that it can; a failure to write is only logged."""
        state = beginning.state.model_copy(update={"configured": beginning.configured}).taken_over()

        def change(written: PhaseState | None) -> PhaseState | None:
            if written is None or written == beginning.written or written.current.same_as(state.current):
                return state
            # Chosen while the models were loaded, and next.
            if written.action == "rollback":
                return written.model_copy(update={"configured": beginning.configured})
            return state.apply(written.current, written.action, written.reason)

        try:
            self.state.change(change)
        except StateError as error:
            log.error("%s; %s runs", error, state.current.label)
        return state

    def follow(self, state: PhaseState) -> PhaseState:
        """Return the state with the present content of its phase's file. Raise OperatorError."""
        current = state.current
        if current.is_split or not current.follows:
            return state
        on_disk = PhaseChoice.single(load_phase(current.name, self.config))
        return state if on_disk.same_as(current) else state.apply(on_disk, "apply", FILE_CHANGED)

    def find_ignored_edits(self, running: PhaseChoice) -> Problems:
        """Return which files of a choice that does not follow them are broken or hold other settings now.

        The arms of a split keep the settings with which it began, and a phase that was rolled back keeps those that it
        had.
        """
        if running.follows and not running.is_split:
            return {}
        problems: Problems = {}
        for phase in running.phases:
            try:
                on_disk = load_phase(phase.name, self.config).config_hash
            except OperatorError as error:
                problems[f"{error}; {running.label} goes on"] = logging.ERROR
                continue
            if on_disk != phase.config_hash:
                edit = f"The file of phase {phase.name} now has {on_disk}, which has no effect"
                goes_on = f"{running.label} goes on with {phase.config_hash}; split or apply anew to use the file"
                if not running.is_split:
                    cure = f"`sn17-miner phase apply {phase.name}` uses the file"
                    goes_on = f"{phase.config_hash} was rolled back to; {cure}"
                problems[f"{edit}: {goes_on}"] = logging.WARNING
        return problems
