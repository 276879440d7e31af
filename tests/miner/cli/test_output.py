from pathlib import Path

import pytest
from PIL import Image

from miner.cli.output import write_output, write_picture
from miner.errors import OperatorError
from pipeline import ply
from tests.support.cli import run
from tests.support.full_disk import file_limit
from tests.support.generated import make_splats


@pytest.fixture
def splats(tmp_path: Path) -> Path:
    path = tmp_path / "in.ply"
    path.write_bytes(ply.to_bytes(make_splats()))
    return path


@pytest.mark.parametrize("name", ["out.ply", "out.spz"])
@pytest.mark.parametrize("before", [b"before", None])
def test_a_full_disk_keeps_what_was_there(splats: Path, name: str, before: bytes | None) -> None:
    target = splats.with_name(name)
    if before is not None:
        target.write_bytes(before)
    with file_limit(1000):
        done = run("splats", "convert", splats, target)
    assert done.exit_code == 2
    assert "File too large" in done.stderr
    assert (target.read_bytes() if target.exists() else None) == before
    assert set(splats.parent.iterdir()) == {splats} | ({target} if before else set())


def test_a_full_disk_leaves_no_part_of_a_picture(splats: Path) -> None:
    target = splats.with_name("out.png")
    with file_limit(100):
        assert run("splats", "render", splats, "-o", target, "--views", 1, "--size", 64).exit_code == 2
    assert list(splats.parent.iterdir()) == [splats]


def test_pipes_are_written_to(tmp_path: Path) -> None:
    write_output(Path("/dev/null"), "text")
    assert not Path("/dev/null").is_file()
    write_output(tmp_path / "new", "é")
    assert (tmp_path / "new").read_bytes() == "é".encode()


@pytest.mark.parametrize("name", ["picture.txt", "picture", "picture.psd"])
def test_a_picture_whose_name_ends_in_no_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(OperatorError, match=r"\.png"):
        write_picture(tmp_path / name, Image.new("RGB", (1, 1)))
    assert list(tmp_path.iterdir()) == []
