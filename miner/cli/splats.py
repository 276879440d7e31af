"""sn17-miner splats: describe, convert and draw files of gaussian splats."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import click

from miner.cli.help import HelpfulGroup
from miner.cli.options import FILE, UpAxis, refuse_same_file
from miner.cli.output import write_output, write_picture
from miner.errors import OperatorError
from miner.words import plural

if TYPE_CHECKING:
    from pipeline import Splats, ply, spz

SUFFIXES = (".ply", ".spz")
# A row of views becomes a grid when it would be longer than this.
VIEWS_IN_A_ROW = 4


def require_suffix(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """Return the path of a .ply or .spz file, if there is one; fail if its name has another ending."""
    if path is not None and path.suffix.lower() not in SUFFIXES:
        raise click.BadParameter(f"{path}: expected a name that ends in .ply or .spz")
    return path


@dataclass(frozen=True, eq=False)
class SplatFile:
    """A file of splats: its path, its size in bytes, its header, and the splats."""

    path: Path
    size: int
    header: "ply.Header | spz.Header"
    splats: "Splats"


def read_splats(path: Path) -> SplatFile:
    """Read a file as what it begins as, or else as its name says; print a warning of what cannot be read.

    Raises OperatorError.
    """
    from pipeline import FormatError, ply, recognise_format, spz

    data = path.read_bytes()
    named = path.suffix.lower().removeprefix(".")
    form = recognise_format(data) or named
    reader = ply if form == "ply" else spz
    try:
        content = reader.from_bytes(data)
        header = reader.read_header(data)
    except FormatError as error:
        raise OperatorError(f"{path}: {error}") from None
    if form != named:
        kind = "a PLY" if form == "ply" else "an SPZ"
        click.echo(f"{path}: warning: this is {kind}, whatever its name says", err=True)
    if header.warning:
        click.echo(f"{path}: warning: {header.warning}", err=True)
    return SplatFile(path, len(data), header, content)


@click.group(cls=HelpfulGroup)
def splats() -> None:
    """Describe, convert and draw files of gaussian splats (.ply, .spz)."""


@splats.command(examples=("splats info duck.ply",))
@click.argument("file", type=FILE, callback=require_suffix)
def info(file: Path) -> None:
    """Print the header and the statistics of FILE, and whether validators would score it."""
    content = read_splats(file)

    from pipeline import invalid_reason

    reason = invalid_reason(content.splats)
    rows = [("file", f"{file}, {plural(content.size, 'byte')}"), *_header(content.header), *_statistics(content.splats)]
    rows += _defects(content.splats)
    rows.append(("validator", "accepted" if reason is None else f"refused: {reason}"))
    for name, value in rows:
        click.echo(f"{name:<12} {value}")


def _header(header: "ply.Header | spz.Header") -> list[tuple[str, str]]:
    from pipeline import ply

    if isinstance(header, ply.Header):
        form = header.format.replace("_", " ") + (", compressed as by SuperSplat" if header.is_compressed else "")
        return [("format", f"PLY, {form}"), ("properties", " ".join(header.vertex.properties))]
    flags = ", antialiased" if header.antialiased else ""
    container = "" if header.compression == "zstd" else f", {header.compression} as by nianticlabs/spz"
    return [
        ("format", f"SPZ version {header.version}, {header.fractional_bits} fractional bits{flags}{container}"),
        ("raw size", f"{plural(header.raw_bytes, 'byte')}, compressed to {header.frame_bytes}"),
    ]


def _defects(content: "Splats") -> list[tuple[str, str]]:
    from pipeline import count_non_finite, count_zero_rotations

    counts = [
        f"{name} {nan} NaN, {infinite} infinite" + (" (opacity 0 or 1)" if name == "opacity_logits" else "")
        for name, (nan, infinite) in count_non_finite(content).items()
    ]
    return [
        ("non-finite", "; ".join(counts) or "none"),
        ("rotations", f"{count_zero_rotations(content)} of length zero"),
    ]


def _statistics(content: "Splats") -> list[tuple[str, str]]:
    from pipeline import SH_COEFFICIENTS, compute_statistics

    numbers = compute_statistics(content)
    low, high = ([f"{value:.4f}" for value in corner] for corner in (numbers.box_min, numbers.box_max))
    return [
        ("gaussians", str(numbers.count)),
        ("harmonics", f"degree {content.sh_degree}, {SH_COEFFICIENTS[content.sh_degree]} coefficients a channel"),
        ("opacity", f"{numbers.opacity_min:.4f} to {numbers.opacity_max:.4f}, mean {numbers.opacity_mean:.4f}"),
        ("transparent", f"{100 * numbers.transparent_share:.2f} % below 0.001"),
        ("box", f"({', '.join(low)}) to ({', '.join(high)}), volume {numbers.volume:.6g}"),
        ("density", f"{numbers.density_mean:.2f} per occupied voxel of 64^3, at most {numbers.density_max}"),
        ("scale", f"5 % {numbers.scale_p5:.3g}, median {numbers.scale_p50:.3g}, 95 % {numbers.scale_p95:.3g}"),
    ]


@splats.command(examples=("splats convert duck.ply duck.spz", "splats convert duck.spz -o duck.ply"))
@click.argument("source", metavar="IN", type=FILE, callback=require_suffix)
@click.argument("target", metavar="[OUT]", type=FILE, callback=require_suffix, required=False)
@click.option("-o", "--output", type=FILE, metavar="OUT", callback=require_suffix, help="OUT, by another way.")
@click.option("--drop-invalid", is_flag=True, help="Leave out gaussians with a NaN, an infinity or no rotation.")
@click.option(
    "--extent",
    type=click.FloatRange(0, min_open=True),
    show_default="as it is",
    help="Centre the object and scale its longest side to this.",
)
def convert(source: Path, target: Path | None, output: Path | None, drop_invalid: bool, extent: float | None) -> None:
    """Convert IN to OUT, between .ply and .spz.

    IN may also be an SPZ of nianticlabs/spz or a compressed PLY of SuperSplat. An .spz has the bytes of the subnet's
    reference library at level 1 with one worker, a .ply those that its decompressor writes without normals.
    """
    if (target is None) == (output is None):
        raise click.UsageError("name the file to write once, as OUT or with -o")
    target = target or output
    assert target is not None, "one of them was given"
    refuse_same_file(source, target, "IN and OUT")
    content = read_splats(source).splats

    import pipeline
    from pipeline import FormatError, ply, spz

    try:
        if drop_invalid:
            content, dropped = pipeline.drop_invalid(content)
            click.echo(f"{source}: {dropped} gaussians left out", err=True)
        if extent is not None:
            content = pipeline.normalise(content, extent)
        if target.suffix.lower() == ".ply":
            data = ply.to_bytes(content, normals=False)
        else:
            data = spz.to_bytes(content, level=1, workers=1, lossy=True)
            if reason := spz.loss_reason(content):
                click.echo(f"{source}: warning: values are lost: {reason}", err=True)
    except (FormatError, ValueError) as error:
        raise OperatorError(f"{source}: {error}") from None
    write_output(target, data)
    click.echo(f"{target}: {plural(len(content), 'gaussian')}, {plural(len(data), 'byte')}")


@splats.command(examples=("splats render duck.ply -o duck.png --views 8",))
@click.argument("file", type=FILE, callback=require_suffix)
@click.option("-o", "--output", type=FILE, required=True, metavar="PICTURE.png", help="The picture to write.")
@click.option("--views", type=click.IntRange(1, 64), default=4, help="Number of views, evenly around the object.")
@click.option("--size", type=click.IntRange(16, 2048), default=512, help="Side of a view in pixels.")
@click.option(
    "--up",
    type=click.Choice(get_args(UpAxis)),
    default="-y",
    help="The axis of the object's upper side: -y as generate writes it, y as validators and nianticlabs/spz do.",
)
def render(file: Path, output: Path, views: int, size: int, up: UpAxis) -> None:
    """Draw FILE upright from all sides on white, its front first.

    The camera is 15 degrees above the object, which fills the views. Up to four views form a row, more a grid.
    """
    refuse_same_file(file, output, "FILE and --output")
    content = read_splats(file).splats

    from PIL import Image

    from pipeline import choose_drawing_device, draw_views, flip_up_axis

    if up == "-y":
        content = flip_up_axis(content)
    content = content.to(choose_drawing_device())
    columns = min(views, VIEWS_IN_A_ROW) if views <= VIEWS_IN_A_ROW else math.ceil(math.sqrt(views))
    picture = Image.new("RGB", (columns * size, math.ceil(views / columns) * size), "white")
    for index, view in enumerate(draw_views(content, [360 * number / views for number in range(views)], size)):
        picture.paste(view, (index % columns * size, index // columns * size))
    write_picture(output, picture)
    click.echo(f"{output}: {plural(views, 'view')} of {plural(len(content), 'gaussian')}")
