"""Where `generate` writes: one file, or a folder with a file for each prompt."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from miner.cli.options import refuse_same_file
from miner.cli.prompt_sources import PICTURE_SUFFIXES, PromptSource
from miner.errors import OperatorError

OUTPUT_SUFFIXES = (".ply", ".spz")


@dataclass(frozen=True)
class GenerationFiles:
    """The file of each prompt, in their order, and the sheet, None if there is to be none."""

    objects: tuple[Path, ...]
    sheet: Path | None

    @staticmethod
    def choose(
        sources: tuple[PromptSource, ...], seeds: tuple[int, ...], state_dir: Path,
        output: Path | None, sheet: Path | None, is_opened: bool,
    ) -> "GenerationFiles":  # fmt: skip
        """Choose the files, and make their folders.

        Files that the command line does not name are new ones: in `output` if that is a folder, else in the state
        folder. Raises OperatorError for names of other kinds of files and for those of the prompts.
        """
        is_folder = output is not None and (output.is_dir() or not output.suffix)
        if output is not None and not is_folder:
            if output.suffix.lower() not in OUTPUT_SUFFIXES:
                raise OperatorError(f"--output must end in .ply or .spz, not {output.suffix!r}, or be a folder")
            if len(sources) > 1:
                raise OperatorError(f"--output must be a folder for {len(sources)} prompts, not the file {output}")
        if sheet is not None and sheet.suffix.lower() not in PICTURE_SUFFIXES:
            raise OperatorError(f"--sheet must end in .png or another suffix of pictures, not {sheet.suffix!r}")
        if output is None or is_folder:
            objects, beside = _in_folder(sources, seeds, output, state_dir)
        else:
            objects, beside = (output,), output.with_name(f"{output.stem}-sheet.png")
        files = GenerationFiles(objects, beside if sheet is None and is_opened else sheet)
        for target in (*files.objects, *filter(None, [files.sheet])):
            for picture in chain.from_iterable(source.files for source in sources):
                refuse_same_file(picture, target, "PROMPT and the file to write")
            # Before the work, so that none is lost to a folder that cannot be made.
            target.parent.mkdir(parents=True, exist_ok=True)
        return files


def _in_folder(
    sources: tuple[PromptSource, ...], seeds: tuple[int, ...], folder: Path | None, state_dir: Path
) -> tuple[tuple[Path, ...], Path]:
    """Return new files for the prompts, and one for their sheet."""
    moment = time.strftime("%Y%m%d-%H%M%S")
    names = [f"{source.stem}-{seed}" for source, seed in zip(sources, seeds, strict=True)]
    if folder is None:
        folder = state_dir / "generated"
        if len(sources) == 1:
            names = [f"{moment}-{names[0]}"]
        else:
            folder = folder / f"{moment}-{names[0]}"
    stems = tuple(_unused(folder, names))
    sheet = f"{stems[0]}-sheet.png" if len(sources) == 1 else "sheet.png"
    return tuple(folder / f"{stem}.ply" for stem in stems), folder / sheet


def _unused(folder: Path, names: Iterable[str]) -> Iterable[str]:
    """Yield the names, those of files that exist already or came before with a number."""
    taken: set[str] = set()
    for name in names:
        numbered = chain([name], (f"{name}-{number}" for number in count(2)))
        unused = next(stem for stem in numbered if stem not in taken and not (folder / f"{stem}.ply").exists())
        taken.add(unused)
        yield unused
