"""Files that commands write for people: whole or not at all."""

import stat
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from miner.errors import OperatorError

if TYPE_CHECKING:
    from PIL import Image


def write_output(path: Path, data: bytes | str) -> None:
    """Write a file so that a full disk leaves the old one or none; pipes and devices are written to. Raises OSError."""
    from miner.runtime import write_atomically

    try:
        is_replaceable = stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        is_replaceable = True
    if is_replaceable:
        write_atomically(path, data)
    else:
        path.write_bytes(data.encode() if isinstance(data, str) else data)


def write_picture(path: Path, picture: "Image.Image") -> None:
    """Write a picture in the format that its name ends in.

    Raises OperatorError if the name ends in none that can be written, and OSError.
    """
    from PIL import Image

    form = Image.registered_extensions().get(path.suffix.lower())
    if form is None or form not in Image.SAVE:
        raise OperatorError(f"{path}: expected a name that ends in .png")
    buffer = BytesIO()
    picture.save(buffer, form)
    write_output(path, buffer.getvalue())
