"""What `generate` makes objects of: sentences, pictures, folders of pictures, and lines of a file or of stdin."""

import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from miner.errors import OperatorError
from miner.words import shortened

if TYPE_CHECKING:
    from pipeline import ImagePrompt, Prompt

Combine = Literal["stochastic", "multidiffusion"]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
LIST_SUFFIX = ".txt"
STDIN = "-"
# Characters of a sentence that stand for it in messages.
NAME_LENGTH = 80


@dataclass(frozen=True)
class PromptSource:
    """A prompt that is read when its turn comes.

    name: what messages call it. is_text: whether it is a sentence. files: the pictures that it is read from.
    """

    name: str
    is_text: bool
    _read: "Callable[[], Prompt]"
    files: tuple[Path, ...] = ()

    def read(self) -> "Prompt":
        """Return the prompt. Raise PromptError."""
        return self._read()

    @staticmethod
    def of(prompt: "Prompt", name: str) -> "PromptSource":
        """Return a source of a prompt that was read already."""
        from pipeline import TextPrompt

        return PromptSource(name, isinstance(prompt, TextPrompt), lambda: prompt)

    @property
    def stem(self) -> str:
        """A short name for files, of lower-case letters, digits and hyphens."""
        text = self.files[0].stem if self.files else self.name
        return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "object"


def find_prompts(words: tuple[str, ...], combine: Combine | None) -> tuple[PromptSource, ...]:
    """Return the prompts that the words of a command line stand for; pictures are not opened yet.

    Words without any space that name no file are one sentence, for those who leave the quotes out. With `combine`, all
    pictures are one prompt. Raises OperatorError if there is no prompt.
    """
    if combine is not None:
        return (_combined(words, combine),)
    if not any(" " in word.strip() or word == STDIN or _is_path(word) for word in words):
        return (_sentence(" ".join(words)),)
    return tuple(source for word in words for source in _sources(word))


def _combined(words: tuple[str, ...], combine: Combine) -> PromptSource:
    paths: list[Path] = []
    for word in words:
        found = _sources(word)
        if not all(source.files for source in found):
            raise OperatorError(f"--combine makes one object of several pictures, and {word!r} is no picture")
        paths += (path for source in found for path in source.files)

    def read() -> "Prompt":
        from pipeline import ImagesPrompt

        images = tuple(_read_picture(path) for path in paths)
        return images[0] if len(images) == 1 else ImagesPrompt(images, combine)

    return PromptSource(" and ".join(path.name for path in paths), False, read, tuple(paths))


def _sources(word: str) -> tuple[PromptSource, ...]:
    path = Path(word)
    if word == STDIN:
        return _from_stdin()
    if _is(word, "is_dir"):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file())
        if not files:
            raise OperatorError(f"the folder {path} has no picture: none of its files ends in .png or the like")
        return tuple(_picture(file) for file in files)
    if word.endswith("/"):
        raise OperatorError(f"the folder {word} does not exist")
    if path.suffix.lower() == LIST_SUFFIX and " " not in word.strip():
        return tuple(_lines(path.read_bytes(), str(path)))
    return (_line(word),)


def _line(text: str) -> PromptSource:
    path = Path(text)
    is_picture = path.suffix.lower() in PICTURE_SUFFIXES or _is(text, "is_file")
    return _picture(path) if is_picture else _sentence(text)


def _lines(content: bytes, name: str) -> Iterator[PromptSource]:
    """Yield the prompts of a text, one a line. Raise OperatorError if there is none."""
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise OperatorError(f"{name} is no UTF-8 text with a prompt a line") from None
    if not any(lines):
        raise OperatorError(f"{name} has no prompt: write one a line")
    yield from (_line(line) for line in lines if line)


def _from_stdin() -> tuple[PromptSource, ...]:
    from pipeline import MAX_IMAGE_BYTES, decode_image_prompt

    content = sys.stdin.buffer.read(MAX_IMAGE_BYTES + 1)
    # No text has a NUL, and every picture does.
    if b"\0" in content or len(content) > MAX_IMAGE_BYTES:
        return (PromptSource("the standard input", False, lambda: decode_image_prompt(content)),)
    return tuple(_lines(content, "the standard input"))


def _sentence(text: str) -> PromptSource:
    def read() -> "Prompt":
        from pipeline import parse_text_prompt

        return parse_text_prompt(text)

    return PromptSource(shortened(text, NAME_LENGTH) or repr(text), True, read)


def _picture(path: Path) -> PromptSource:
    return PromptSource(str(path), False, lambda: _read_picture(path), (path,))


def _read_picture(path: Path) -> "ImagePrompt":
    from pipeline import PromptError, decode_image_prompt

    try:
        return decode_image_prompt(path.read_bytes())
    except OSError as error:
        raise PromptError(f"{path} cannot be read: {error.strerror}") from None


def _is_path(word: str) -> bool:
    path = Path(word)
    is_named_so = word.endswith("/") or path.suffix.lower() in (*PICTURE_SUFFIXES, LIST_SUFFIX)
    return is_named_so or _is(word, "is_file") or _is(word, "is_dir")


def _is(word: str, kind: Literal["is_file", "is_dir"]) -> bool:
    """Return whether a word names such a path; a sentence may be too long for a name, and "" is no folder."""
    path = Path(word)
    try:
        return bool(word.strip()) and (path.is_file() if kind == "is_file" else path.is_dir())
    except (OSError, ValueError):
        return False
