"""The file that a result is delivered in."""

from dataclasses import dataclass
from typing import Literal, get_args

from pipeline.errors import FormatError
from pipeline.splats import ply, spz
from pipeline.splats.splats import Splats, flip_up_axis, normalise

ResultFormat = Literal["spz", "ply"]
UpAxis = Literal["y", "-y"]
"""The axis along which an object's upper side lies in a file; its front is at +z for "y", at -z for "-y"."""
UP_AXES: tuple[UpAxis, ...] = get_args(UpAxis)

_SPZ_STARTS = (b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"NGSP")


def recognise_format(data: bytes) -> ResultFormat | None:
    """Return the format that a file begins as, whatever its name is; None if it is neither."""
    if data.startswith((b"ply\n", b"ply\r")):
        return "ply"
    return "spz" if data.startswith(_SPZ_STARTS) else None


@dataclass(frozen=True, eq=False)
class PackedSplats:
    """The bytes of a file, and the splats that a reader of them gets, turned upright."""

    data: bytes
    splats: Splats


@dataclass(frozen=True)
class Container:
    """A file format with its settings, and how the object lies in it.

    up: "y" for validators, which draw with +y up and look from +z first; "-y" as upstream's files, which most viewers
    show upright. level, workers: those of `spz.to_bytes`; they mean nothing to PLY. extent: the length to which the
    object's longest side is scaled, centred; None leaves it as it is.
    """

    format: ResultFormat = "spz"
    up: UpAxis = "y"
    level: int = 1
    workers: int = 0
    extent: float | None = None

    def place(self, splats: Splats) -> Splats:
        """Return splats as a backend generates them, centred and scaled as the file asks for.

        Raises FormatError if they cannot be scaled.
        """
        if self.extent is None:
            return splats
        try:
            return normalise(splats, self.extent)
        except ValueError as error:
            raise FormatError(f"export is impossible: {error}") from None

    def pack(self, splats: Splats) -> PackedSplats:
        """Encode splats as a backend generates them, with -y up, and decode the file once to verify it.

        Raises FormatError if the format cannot hold the splats, or if they come back changed by more than it allows.
        """
        splats = self.place(splats)
        if self.up == "y":
            splats = flip_up_axis(splats)
        if self.format == "ply":
            data = ply.to_bytes(splats)
            decoded = ply.verify_round_trip(splats, data)
        else:
            data = spz.to_bytes(splats, level=self.level, workers=self.workers)
            decoded = spz.verify_round_trip(splats, data)
        return PackedSplats(data, decoded if self.up == "y" else flip_up_axis(decoded))

    def unpack(self, data: bytes) -> Splats:
        """Return what a reader of a file that was packed gets, turned upright. Raises FormatError."""
        splats = ply.from_bytes(data) if self.format == "ply" else spz.from_bytes(data)
        return splats if self.up == "y" else flip_up_axis(splats)
