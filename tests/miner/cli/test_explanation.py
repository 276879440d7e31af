"""`generate --explain` and `generate --task`."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from miner.cli.explanation import Explanation
from miner.cli.stored_tasks import find_stored_task
from miner.config import OperatorFiles
from miner.config.phase_files import load_phase
from miner.errors import OperatorError
from miner.ledger.events import PhaseAssignment, PhaseChanged, TaskStarted
from miner.ledger.writer import LedgerWriter
from pipeline import ImagePrompt, TextPrompt
from tests.support.cli import run

PHASE = "extends: demo\nmax_voxels: {count: 400, excess: drop}\n"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "config"
    (folder / "phases").mkdir(parents=True)
    (folder / "miner.yaml").write_text("phase: fast\n")
    (folder / "phases" / "fast.yaml").write_text(PHASE)
    return folder / "miner.yaml"


def pictures_of(folder: Path) -> set[str]:
    """The pictures that the page shows, all of which must be there."""
    shown = set(re.findall(r'src="([^"]+)"', (folder / "index.html").read_text()))
    assert shown == {path.name for path in folder.glob("*.png")}
    for name in shown:
        Image.open(folder / name).verify()
    return shown


@pytest.mark.slow
def test_every_step_of_a_picture_is_on_the_page(tmp_path: Path, config: Path) -> None:
    picture = Image.new("RGB", (240, 200), (220, 220, 215))
    ImageDraw.Draw(picture).ellipse((70, 50, 170, 150), fill=(190, 40, 30))
    picture.save(tmp_path / "red.png")
    folder = tmp_path / "why"
    result = run(
        "generate", tmp_path / "red.png", "--phase", "fast", "--config", config, "--state", tmp_path / "state",
        "--device", "cpu", "--seed", 3, "--explain", folder,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert f"{folder / 'index.html'}: how it came about" in result.output
    voxels = {f"voxels{azimuth}.png" for azimuth in (0, 90, 180, 270)}
    assert pictures_of(folder) == voxels | {
        "prompt1.png", "matte1-u2netp.png", "cutout1.png", "framed1.png", "views.png",
    }  # fmt: skip
    page = (folder / "index.html").read_text()
    assert re.search(r"u2netp: IoU of 0\.\d\d expected, taken", page)
    assert "<td>area</td>" in page
    matte = np.asarray(Image.open(folder / "matte1-u2netp.png"))
    assert matte[100, 120] > 250
    assert matte[5, 5] == 0


def test_a_picture_without_an_object_is_explained_as_far_as_it_came(tmp_path: Path, config: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    folder = tmp_path / "why"
    result = run(
        "generate", tmp_path / "noise.png", "--phase", "fast", "--config", config, "--state", tmp_path / "state",
        "--device", "cpu", "--explain", folder,
    )  # fmt: skip
    assert result.exit_code == 2
    assert pictures_of(folder) == {"prompt1.png", "matte1-u2netp.png"}
    assert "EmptyForeground: the image shows no object" in (folder / "index.html").read_text()


def test_nothing_in_a_prompt_is_taken_for_markup(tmp_path: Path) -> None:
    page = Explanation.begin(tmp_path / "page", "<b>", {"<i>": "&"})
    page.add_prompt(TextPrompt("<script>alert(1)</script>"))
    page.add_error("<img src=x>")
    text = page.write().read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize("arguments", [(), ("a chair", "--task", "t1")])
def test_a_prompt_or_a_task_is_needed(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run("generate", *arguments, "--state", tmp_path)
    assert result.exit_code == 2
    assert "give either PROMPT, a picture or a sentence, or --task ID" in result.stderr


# Stored tasks.


def store(files: OperatorFiles, key: int, **facts: object) -> None:
    results = files.state_dir / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / f"{key}.json").write_text(json.dumps({"phase": "fast", "seed": key, **facts}))


@pytest.fixture
def files(tmp_path: Path, config: Path) -> OperatorFiles:
    return OperatorFiles.load(config, tmp_path / "state")


def test_the_latest_result_of_a_task_is_found_with_its_prompt(files: OperatorFiles, tmp_path: Path) -> None:
    store(files, 5, task_id="t1", prompt="a chair")
    store(files, 7, task_id="t1", prompt="a red chair")
    store(files, 9, task_id="t2")
    Image.new("RGB", (20, 10), "red").save(tmp_path / "x.png")
    (files.state_dir / "results" / "9.prompt").write_bytes((tmp_path / "x.png").read_bytes())
    (files.state_dir / "results" / "11.json").write_text("not JSON")
    found = find_stored_task(files, "t1")
    assert (found.key, found.prompt, found.phase, found.seed) == (7, TextPrompt("a red chair"), "fast", 7)
    picture = find_stored_task(files, "t2").prompt
    assert isinstance(picture, ImagePrompt)
    assert picture.image.size == (20, 10)


def test_a_task_without_a_result_is_named(files: OperatorFiles) -> None:
    with pytest.raises(OperatorError, match=r"no result of task t3 is in .*results: .*housekeeping"):
        find_stored_task(files, "t3")


def test_a_task_keeps_the_settings_that_it_ran_with(files: OperatorFiles, config: Path) -> None:
    store(files, 5, task_id="t1", prompt="a chair")
    before = load_phase("fast", config)
    ledger = LedgerWriter(files.ledger)
    ledger.record(PhaseChanged(1.0, "fast", "start", before.config_hash, before.yaml))
    assignment = PhaseAssignment("fast", before.config_hash, None)
    ledger.record(TaskStarted(5, 2.0, "pull", "5V", 1, "t1", "text", assignment, "v"))
    assert ledger.close(10)
    (config.parent / "phases" / "fast.yaml").write_text(PHASE.replace("400", "500"))
    task = find_stored_task(files, "t1")
    assert task.find_phase(config).config_hash == before.config_hash
    files.ledger.unlink()
    assert task.find_phase(config).config_hash == load_phase("fast", config).config_hash != before.config_hash


@pytest.mark.slow
def test_the_object_of_a_task_is_made_again_and_explained(files: OperatorFiles, config: Path, tmp_path: Path) -> None:
    store(files, 5, task_id="t1", prompt="a red ball")
    folder = tmp_path / "why"
    result = run(
        "generate", "--task", "t1", "--config", config, "--state", files.state_dir, "--device", "cpu",
        "-o", tmp_path / "again.ply", "--explain", folder,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "seed 5," in result.output
    assert pictures_of(folder) == {"views.png", *(f"voxels{azimuth}.png" for azimuth in (0, 90, 180, 270))}
    assert "a red ball" in (folder / "index.html").read_text()
