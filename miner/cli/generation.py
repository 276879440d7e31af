"""From one prompt of `generate` to its file and its page."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from miner.cli.explanation import Explanation
from miner.cli.generation_bar import GenerationBar
from miner.cli.generation_report import MadeObject
from miner.cli.options import UpAxis
from miner.cli.output import write_output

if TYPE_CHECKING:
    from miner.config import MinerSettings
    from miner.config.phase import Phase
    from miner.config.phase_files import NamedPhase
    from miner.gpu import LoadedModels
    from pipeline import BestResult, GenerationJob, Prompt


@dataclass(frozen=True, eq=False)
class Generation:
    """Makes objects of prompts with a phase; `phase` is that of `named` with the checkpoints that are loaded."""

    named: "NamedPhase"
    phase: "Phase"
    settings: "MinerSettings"
    up: UpAxis
    models: "LoadedModels"

    def make(self, prompt: "Prompt", seed: int, path: Path, explain: Path | None, bar: GenerationBar) -> MadeObject:
        """Make an object and write it, with its page into the folder `explain`. Raise PipelineError or OSError."""
        from miner.tasks import make_container, make_request
        from pipeline import GenerationJob

        phase, spz = self.phase, self.settings.spz
        request = make_request(prompt, seed, phase)
        page = None
        if explain is not None:
            facts = {"phase": self.named.label, "seed": str(seed), "prompt": request.prompt.label}
            page = Explanation.begin(explain, "From the prompt to the object", facts)
        submitted = make_container("spz", self.up, spz, phase)
        copies = (make_container("ply", self.up, spz, phase),) if path.suffix.lower() == ".ply" else ()
        job = GenerationJob(
            str(path), request, submitted, copies,
            preview_steps=phase.candidates.preview_steps or 0, is_explained=page is not None,
        )  # fmt: skip
        best = self._run_explained(job, page, bar)
        (data,) = best.asset.copies or (best.asset.data,)
        write_output(path, data)
        return MadeObject(path, len(data), best, submitted.unpack(best.asset.data))

    def _run(self, job: "GenerationJob", bar: GenerationBar) -> "BestResult":
        """Make the phase's candidates."""
        from miner.tasks import best_of_n
        from pipeline import CandidateMaker, run_best_of_n

        choice = best_of_n(job.request, self.phase, self.models.scorer is not None)
        steps = bar.follow(job, self.phase, choice.count)
        maker = CandidateMaker(self.models.backend, self.models.scorer)
        return run_best_of_n(maker, job, choice, steps.step, on_begin=steps.begin)

    def _run_explained(self, job: "GenerationJob", page: Explanation | None, bar: GenerationBar) -> "BestResult":
        """Make the phase's candidates, and write the page, if there is one, whether there is a result or not."""
        from pipeline import NoCutOut, PipelineError

        if page is None:
            return self._run(job, bar)
        page.add_prompt(job.request.prompt)
        try:
            best = self._run(job, bar)
        except PipelineError as error:
            if isinstance(error, NoCutOut):
                page.add_mattings(error.mattings, "")
            page.add_error(f"{type(error).__name__}: {error}")
            bar.echo(f"{page.write()}: why there is no object")
            raise
        page.add_pictures(best.asset.pictures)
        page.add_result(best, job.container.unpack(best.asset.data))
        bar.echo(f"{page.write()}: how it came about")
        return best
