"""The file that a result is delivered in."""

from dataclasses import dataclass
from typing import Literal

from pipeline.splats import ply, spz
from pipeline.splats.splats import Splats

ResultFormat = Literal["spz", "ply"]

_SPZ_STARTS = (b"\x28\xb5\x2f\xfd", b"\x1f\x8b", b"NGSP")


def recognise_format(data: bytes) -> ResultFormat | None:
    """Return the format that a file begins as, whatever its name is; None if it is neither."""
    if data.startswith((b"ply\n", b"ply\r")):
        return "ply"
    return "spz" if data.startswith(_SPZ_STARTS) else None


@dataclass(frozen=True, eq=False)
class PackedSplats:
    """The bytes of a file, and the splats that a reader of them gets."""

    data: bytes
    splats: Splats


@dataclass(frozen=True)
class Container:
    """A file format and its settings; `level` and `workers` are those of `spz.to_bytes` and mean nothing to PLY."""

    format: ResultFormat = "spz"
    level: int = 1
    workers: int = 0

    def pack(self, splats: Splats) -> PackedSplats:
        """Encode the splats, and decode the file once to verify it.

        Raises FormatError if the format cannot hold the splats, or if they come back changed by more than it allows.
        """
        if self.format == "ply":
            data = ply.to_bytes(splats)
            return PackedSplats(data, ply.verify_round_trip(splats, data))
        data = spz.to_bytes(splats, level=self.level, workers=self.workers)
        return PackedSplats(data, spz.verify_round_trip(splats, data))
