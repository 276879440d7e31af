"""What `generate` says and draws of the objects that it made."""

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from miner.cli.output import write_picture
from miner.words import plural

if TYPE_CHECKING:
    from PIL import Image

    from miner.config.phase import Phase
    from pipeline import BestResult, Prompt, Splats


@dataclass(frozen=True, eq=False)
class MadeObject:
    """The best object of a prompt, as it was written to a file of `size` bytes."""

    path: Path
    size: int
    best: "BestResult"
    splats: "Splats"

    @property
    def line(self) -> str:
        """The file and what is in it."""
        return f"{self.path}: {plural(len(self.splats), 'gaussian')}, {plural(self.size, 'byte')}"

    @property
    def summary(self) -> str:
        """The line with the seed, the score and what is wrong with it."""
        best = self.best
        score = f", {best.score}" if best.score else ""
        problem = f", a validator would find it {best.problem}" if best.problem else ""
        return f"{self.line}, seed {best.asset.seed}{score}{problem}"

    def report(self, phase: "Phase", echo: Callable[[str], object]) -> None:
        """Print how the best candidate was found, what it is, and where."""
        from dataclasses import asdict

        from miner.tasks import decide_by_limit
        from pipeline import compute_statistics

        best, asset = self.best, self.best.asset
        if phase.scorer is not None:
            for number, candidate in enumerate(best.candidates, 1):
                score = candidate.score or "not scored"
                problem = f", {candidate.problem}" if candidate.problem else ""
                echo(f"candidate {number}: seed {candidate.seed}, {candidate.seconds:.2f} s, {score}{problem}")
        if phase.gate is not None and phase.gate != "auto":
            decision = decide_by_limit(phase.gate, best.score, len(best.candidates))
            if not decision.is_sent:
                echo(f"the miner would withhold it: {decision.reason}")
        echo(f"seed {asset.seed}, {plural(asset.voxels, 'voxel')}, {plural(len(self.splats), 'gaussian')}")
        echo("seconds: " + ", ".join(f"{stage} {value:.2f}" for stage, value in asset.seconds.items()))
        for name, value in asdict(compute_statistics(self.splats)).items():
            echo(f"{name}: {value}")
        echo(f"a validator would find it {best.problem or 'valid'}")
        echo(self.line)

    def draw(self, prompt: "Prompt") -> "Image.Image":
        """Return a picture of the prompt beside four views of the object."""
        from pipeline import ImagesPrompt, TextPrompt, draw_contact_sheet

        shown: Image.Image | str
        if isinstance(prompt, TextPrompt):
            shown = prompt.text
        else:
            shown = (prompt.images[0] if isinstance(prompt, ImagesPrompt) else prompt).image
        return draw_contact_sheet(shown, self.splats, f"{self.path.name}, seed {self.best.asset.seed}")


def write_sheet(path: Path, rows: Sequence["Image.Image"]) -> None:
    """Write pictures of one width as one, below each other. Raises OSError."""
    from PIL import Image

    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    write_picture(path, sheet)


def open_picture(path: Path) -> None:
    """Show a picture with the desktop's own program, or say that there is no desktop."""
    has_desktop = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_desktop or click.launch(str(path)):
        click.echo(f"WARNING: this machine has no desktop to show {path} on: copy it to one that has", err=True)
