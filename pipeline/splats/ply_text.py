"""The rows of a PLY in text as numpy tables; lists are skipped."""

import warnings
from collections.abc import Iterator, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import FormatError
from pipeline.splats.ply_header import TYPES, Element

_MAX_LINE = 1 << 20


def read_text(data: bytes, offset: int, elements: Sequence[Element]) -> Iterator[tuple[str, NDArray[np.void]]]:
    """Yield the name and the rows of each element, whose lines begin at the offset, with a field for each scalar.

    A line is a row, and blank lines are passed over. Elements without scalars are read, but not yielded. Raises
    FormatError.
    """
    stream = BytesIO(data)
    stream.seek(offset)
    for element in elements:
        # Its rows are blank lines.
        if not element.properties:
            continue
        lines = _read_lines(stream, element)
        if element.has_lists:
            lines = [_without_lists(line, element, row) for row, line in enumerate(lines)]
        row_type = np.dtype([(name, TYPES[kind[0]]) for name, kind in element.properties.items() if len(kind) == 1])
        if row_type.itemsize:
            yield element.name, _parse(lines, row_type, element)


def _read_lines(stream: BytesIO, element: Element) -> list[str]:
    """Return the next lines that are not blank, one for each row."""
    lines: list[str] = []
    while len(lines) < element.count:
        line = stream.readline(_MAX_LINE)
        if not line or len(line) == _MAX_LINE:
            raise FormatError(f"PLY with {len(lines)} readable lines of {_describe(element)}: expected {element.count}")
        if line.strip():
            try:
                lines.append(line.decode("ascii"))
            except UnicodeDecodeError as error:
                raise FormatError(f"PLY in text, row {len(lines)} of {_describe(element)}: {error}") from None
    return lines


def _without_lists(line: str, element: Element, row: int) -> str:
    """Return the scalars of a row."""
    words = iter(line.split())
    scalars = []
    try:
        for kind in element.properties.values():
            word = next(words)
            if len(kind) == 1:
                scalars.append(word)
                continue
            length = int(word)
            if length < 0:
                raise ValueError(word)
            for _ in range(length):
                next(words)
    except StopIteration:
        raise FormatError(f"PLY in text, row {row} of {_describe(element)}: the line ends too early") from None
    except ValueError:
        raise FormatError(f"PLY in text, row {row} of {_describe(element)}: {word[:40]!r} is no length") from None
    return " ".join([*scalars, *words])


def _parse(lines: Sequence[str], row_type: np.dtype[np.void], element: Element) -> NDArray[np.void]:
    try:
        # A number beyond the range of its type is infinite.
        with np.errstate(over="ignore"), warnings.catch_warnings():
            warnings.simplefilter("error")
            return np.loadtxt(lines, row_type, comments=None, ndmin=1)
    except (ValueError, TypeError, OverflowError, Warning) as error:
        # What follows is advice on numpy's arguments.
        reason, *_ = str(error).split(";")
        raise FormatError(f"PLY in text, {_describe(element)}: {reason}") from None


def _describe(element: Element) -> str:
    return f"the element {element.name[:80]!r}"
