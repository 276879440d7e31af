"""Tasks whose results are still in the state folder, with the prompt, the seed and the settings that they had."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import OperatorError

if TYPE_CHECKING:
    from miner.config import OperatorFiles
    from miner.config.phase_files import NamedPhase
    from pipeline import Prompt


@dataclass(frozen=True)
class StoredTask:
    """A task as the gallery keeps it; `key` is that of its ledger row, and `ledger` the file."""

    key: int
    prompt: "Prompt"
    phase: str
    seed: int
    ledger: Path

    def find_phase(self, config: Path) -> "NamedPhase":
        """Return the phase that the task ran with, as the ledger has it; without its row, the phase of that name."""
        from miner.config import parse_yaml
        from miner.config.phase import Phase
        from miner.config.phase_files import NamedPhase, load_phase
        from miner.ledger import LedgerReader

        if self.ledger.is_file():
            with LedgerReader(self.ledger) as reader:
                rows = reader.tasks_of([self.key])
                found = [phase for phase in reader.phases() if rows and phase.config_hash == rows[0].config_hash]
            if found:
                return NamedPhase(self.phase, Phase.model_validate(parse_yaml(found[-1].yaml)))
        return load_phase(self.phase, config)


def find_stored_task(files: "OperatorFiles", task_id: str) -> StoredTask:
    """Return the latest result of a task. Raise OperatorError if there is none, PromptError if it is damaged."""
    from miner.monitor import Gallery
    from pipeline import decode_image_prompt, parse_text_prompt

    results = Gallery(files.state_dir).results
    for path in sorted(results.glob("*.json"), reverse=True):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or facts.get("task_id") != task_id:
                continue
            text = facts.get("prompt")
            if text is None:
                # It was decoded within limits when it came, before there was a result.
                prompt: Prompt = decode_image_prompt(path.with_suffix(".prompt").read_bytes())
            else:
                prompt = parse_text_prompt(text)
            return StoredTask(int(path.stem), prompt, facts["phase"], int(facts["seed"]), files.ledger)
        except (OSError, ValueError, KeyError, TypeError):
            # Deleted meanwhile, or not a file of the gallery.
            continue
    raise OperatorError(
        f"no result of task {task_id} is in {results}: the miner keeps the latest, see `housekeeping` and "
        "`monitor.gallery` in the settings file"
    )
