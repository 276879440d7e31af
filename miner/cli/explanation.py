"""How a prompt became an object, as pictures and one page: what `generate --explain` writes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from miner.cli.output import write_output, write_picture

if TYPE_CHECKING:
    from PIL import Image

    from pipeline import BestResult, Candidate, Matting, PreparedPicture, Prompt, Splats

PAGE = "index.html"
SIDE = 256
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 76em; padding: 0 1em; color: #222; }
section { margin: 2em 0; } figure { display: inline-block; margin: 0 1em 1em 0; vertical-align: top; }
img { display: block; max-width: 100%; border: 1px solid #d6d6d6; } figcaption { color: #6e6e6e; margin-top: .3em; }
table { border-collapse: collapse; margin: .5em 0; } td, th { padding: .2em .8em .2em 0; text-align: left; }
.taken img { border: 3px solid #2a8f3c; } .error { color: #a11; font-weight: 600; }
"""


@dataclass
class Explanation:
    """A page that grows section by section, and the folder that its pictures are written to."""

    folder: Path
    sections: list[str]

    @staticmethod
    def begin(folder: Path, title: str, facts: Mapping[str, str]) -> "Explanation":
        """Make the folder, and begin a page with a table of facts."""
        folder.mkdir(parents=True, exist_ok=True)
        return Explanation(folder, [f"<h1>{escape(title)}</h1>{_table(facts)}"])

    def add_prompt(self, prompt: "Prompt") -> None:
        """Show a sentence, in its template, or pictures."""
        from pipeline import ImagePrompt, ImagesPrompt, TextPrompt

        if isinstance(prompt, TextPrompt):
            lines = {"sentence": prompt.text, "as it is read or drawn": prompt.filled}
            self.sections.append(f"<section><h2>Prompt</h2>{_table(lines)}</section>")
            return
        images: tuple[ImagePrompt, ...] = prompt.images if isinstance(prompt, ImagesPrompt) else (prompt,)
        figures = [self._figure(f"prompt{n}", image.image, image.label) for n, image in enumerate(images, 1)]
        self._add("Prompt", figures)

    def add_pictures(self, pictures: Sequence["PreparedPicture"]) -> None:
        """Show of each picture the mattes, the cut-out and what the image encoder got."""
        for number, prepared in enumerate(pictures, 1):
            cut = prepared.cut_out
            self.add_mattings(cut.mattings, cut.model, number)
            source = cut.model or ("the whole picture" if cut.mattings else "the picture's own alpha channel")
            figures = [
                self._figure(f"cutout{number}", cut.image, f"cut out: {source}"),
                self._figure(f"framed{number}", prepared.picture, "framed for the image encoder"),
            ]
            self._add("Object", figures)

    def add_mattings(self, mattings: Sequence["Matting"], chosen: str, number: int = 1) -> None:
        """Show the picture as the models got it, their mattes and the measures, if there are any."""
        if not mattings:
            return
        figures = []
        for matting in mattings:
            words = f"{matting.model}: {'no cut-out, ' + matting.flaw if matting.flaw else _expected(matting)}"
            name = f"matte{number}-{matting.model}"
            matte = matting.cutout.getchannel("A")
            figures.append(self._figure(name, matte, words, taken=matting.model == chosen))
        columns = {matting.model: vars(matting.measures) for matting in mattings}
        self._add("Background", figures, _comparison(columns))

    def add_error(self, message: str) -> None:
        """Say why there is no object."""
        self.sections.append(f'<section><h2>No object</h2><p class="error">{escape(message)}</p></section>')

    def add_result(self, best: "BestResult", splats: "Splats") -> None:
        """Show the structure, a validator's views of the splats, and all candidates with the parts of their scores."""
        from pipeline import draw_views, render_validator_views, tile, voxel_splats

        asset = best.asset
        if asset.structure is not None:
            azimuths = (0, 90, 180, 270)
            drawn = draw_views(voxel_splats(asset.structure), azimuths, SIDE)
            words = [f"{asset.voxels} voxels at {azimuth}°" for azimuth in azimuths]
            names = [f"voxels{azimuth}" for azimuth in azimuths]
            self._add("Structure", [self._figure(*each) for each in zip(names, drawn, words, strict=True)])
        views = tile(render_validator_views(splats), columns=4)
        views.thumbnail((4 * SIDE, 4 * SIDE))
        self._add("What a validator sees", [self._figure("views", views, "sixteen views from the front on")])
        rows = [_row(("candidate", "seed", "seconds", "score", "fate"), "th")]
        rows += [_row(_cells(number, candidate)) for number, candidate in enumerate(best.candidates, 1)]
        self.sections.append(f"<section><h2>Candidates</h2><table>{''.join(rows)}</table>")
        parts = {name: "not computed" if value is None else f"{value:.4f}" for name, value in _parts(best)}
        seconds = {stage: f"{value:.2f} s" for stage, value in asset.seconds.items()}
        self.sections.append(f"<h2>Score of the best</h2>{_table(parts)}<h2>Time</h2>{_table(seconds)}</section>")

    def write(self) -> Path:
        """Write the page, and return its path."""
        head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>How it came about</title>'
        content = f"{head}<style>{STYLE}</style></head><body>{''.join(self.sections)}</body></html>\n"
        write_output(self.folder / PAGE, content)
        return self.folder / PAGE

    def _add(self, title: str, figures: Sequence[str], after: str = "") -> None:
        self.sections.append(f"<section><h2>{escape(title)}</h2>{''.join(figures)}{after}</section>")

    def _figure(self, name: str, picture: "Image.Image", caption: str, *, taken: bool = False) -> str:
        """Write a picture as NAME.png, and return the HTML that shows it."""
        write_picture(self.folder / f"{name}.png", picture)
        width = min(picture.width, 4 * SIDE) if name == "views" else SIDE
        kind = ' class="taken"' if taken else ""
        text = escape(caption + (", taken" if taken else ""))
        image = f'<img src="{escape(name)}.png" width="{width}" alt="{text}">'
        return f"<figure{kind}>{image}<figcaption>{text}</figcaption></figure>"


def _expected(matting: "Matting") -> str:
    return f"IoU of {matting.expected_iou:.2f} expected"


def _parts(best: "BestResult") -> Iterator[tuple[str, float | None]]:
    if best.score is not None:
        yield from vars(best.score).items()
        yield "estimated score", best.score.total


def _cells(number: int, candidate: "Candidate") -> tuple[str, ...]:
    score = str(candidate.score) if candidate.score else "not scored"
    fate = f"{candidate.fate}{': ' + candidate.problem if candidate.problem else ''}"
    return str(number), str(candidate.seed), f"{candidate.seconds:.2f}", score, fate


def _table(lines: Mapping[str, str]) -> str:
    return f"<table>{''.join(_row(line) for line in lines.items())}</table>"


def _comparison(columns: Mapping[str, Mapping[str, float | None]]) -> str:
    """Return a table with a column for each of several mappings of the same keys."""
    rows = [_row(("", *columns), "th")]
    for key in next(iter(columns.values())):
        values = (column[key] for column in columns.values())
        rows.append(_row((key, *("" if value is None else f"{value:.3g}" for value in values))))
    return f"<table>{''.join(rows)}</table>"


def _row(cells: Sequence[str], tag: str = "td") -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
