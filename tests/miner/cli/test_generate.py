import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from PIL import Image

from miner.cli.generation import Generation
from miner.cli.generation_report import MadeObject
from pipeline import Prompt, TextPrompt, flip_up_axis, ply, spz
from pipeline.rendering.cameras import validator_cameras
from pipeline.scoring.best_of_n import candidate_seed
from pipeline.scoring.quality import QualityNetwork
from pipeline.scoring.views import render_validator_views
from tests.support.cli import run
from tests.support.scorers import write_scorer


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (27, 4, 37, 60))
    image.save(tmp_path / "red.png")
    return tmp_path / "red.png"


def generate(*arguments: object) -> Result:
    return run("generate", *arguments, "--device", "cpu")


def test_a_picture_becomes_files_and_figures(picture: Path, tmp_path: Path) -> None:
    common = (picture, "--phase", "demo", "--seed", 3)
    shown = generate(*common, "-o", tmp_path / "a.ply", "--sheet", tmp_path / "a.png")
    assert shown.exit_code == 0
    assert generate(*common, "-o", tmp_path / "a.spz").exit_code == 0
    cloud = ply.from_bytes((tmp_path / "a.ply").read_bytes())
    packed = spz.from_bytes((tmp_path / "a.spz").read_bytes())
    assert len(cloud) == len(packed) >= 7000
    assert float((cloud.means - packed.means).abs().max()) <= 2**-13
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert f"{len(cloud)} gaussians" in shown.output
    assert "seed 3," in shown.output
    assert "find it valid" in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.png", "--phase", "demo"), "missing.png cannot be read"),
        ((__file__, "--phase", "demo"), "not an image"),
        (("PICTURE", "--phase", "none"), "no phase 'none'"),
        (("PICTURE", "--phase", "demo", "--checkpoint", "/nowhere"), "/nowhere"),
        (("PICTURE", "--phase", "demo", "-o", "out.obj"), "must end in .ply or .spz, not '.obj', or be a folder"),
    ],
)
def test_mistakes_are_named(picture: Path, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    words = [str(picture) if word == "PICTURE" else word for word in arguments]
    result = generate(*words, "--state", tmp_path / "state")
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("option", ["-o", "--sheet"])
def test_a_prompt_is_not_written_over(picture: Path, tmp_path: Path, option: str) -> None:
    content = picture.read_bytes()
    (tmp_path / "link.ply").symlink_to(picture)
    result = generate(picture, "--phase", "demo", option, picture if option == "--sheet" else tmp_path / "link.ply")
    assert result.exit_code == 2
    assert "PROMPT and the file to write are the same file" in result.stderr
    assert picture.read_bytes() == content


def test_a_sentence_may_be_longer_than_a_file_name(tmp_path: Path) -> None:
    result = generate("a chair, " * 200, "--phase", "demo", "--state", tmp_path / "state")
    assert result.exit_code == 2
    assert "the prompt has 1799 characters, more than 1024" in result.stderr


def test_without_an_output_the_file_goes_into_the_state_folder(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    result = generate(picture, "--phase", "demo", "--state", tmp_path / "state")
    assert result.exit_code == 0
    (made,) = (tmp_path / "state" / "generated").iterdir()
    assert str(made) in result.output
    assert len(ply.from_bytes(made.read_bytes())) >= 7000
    assert set(tmp_path.iterdir()) - before == {tmp_path / "state"}


def test_a_sentence_is_a_prompt(tmp_path: Path) -> None:
    out, sheet = tmp_path / "chair.ply", tmp_path / "sheet.png"
    result = generate("a", "red", "chair", "--phase", "demo", "--seed", 5, "-o", out, "--sheet", sheet)
    assert result.exit_code == 0
    assert len(ply.from_bytes(out.read_bytes())) >= 7000
    with Image.open(sheet) as opened:
        assert opened.width > 1000
    assert "background 0.00" in result.output


def test_several_pictures_are_one_prompt(picture: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    image = Image.new("RGBA", (64, 64))
    image.paste((20, 30, 200, 255), (8, 28, 56, 36))
    image.save(other)
    clouds = []
    for pictures in ((picture, other), (picture,)):
        out = tmp_path / "out.ply"
        options = ("--combine", "multidiffusion", "--phase", "demo", "--seed", 5, "-o", out)
        assert generate(*pictures, *options).exit_code == 0
        clouds.append(ply.from_bytes(out.read_bytes()))
    assert len(clouds[0]) != len(clouds[1]) or not bool((clouds[0].means == clouds[1].means).all())


QUICK = (
    "extends: demo\nsparse_structure_sampler_params: {steps: 4}\nslat_sampler_params: {steps: 2}\n"
    "max_voxels: {count: 250, excess: drop}\n"
)


@pytest.fixture
def quick(phases: Path) -> tuple[object, ...]:
    """Options for a phase of few steps, and a state folder."""
    (phases / "quick.yaml").write_text(QUICK)
    return ("--phase", "quick", "--config", phases.parent / "miner.yaml", "--state", phases.parent / "state")


def test_each_prompt_becomes_a_file_in_the_folder(picture: Path, tmp_path: Path, quick: tuple[object, ...]) -> None:
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / "red-5.ply").write_text("not to be lost")
    out = ("--seed", 5, "-o", tmp_path / "objects", "--sheet", tmp_path / "all.png")
    result = generate("a red chair", picture, "a red chair", *quick, *out)
    assert (result.exit_code, result.stderr) == (0, "")
    names = ["a-red-chair-5.ply", "red-5-2.ply", "a-red-chair-5-2.ply"]
    lines = result.stdout.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        *(str(tmp_path / "objects" / name) for name in names), str(tmp_path / "all.png"),
    ]  # fmt: skip
    assert all(re.search(r": \d+ gaussians, \d+ bytes, seed 5$", line) for line in lines[:3])
    chair, red, again = (ply.from_bytes((tmp_path / "objects" / name).read_bytes()) for name in names)
    torch.testing.assert_close(chair.means, again.means)
    assert chair.means.shape != red.means.shape or not torch.equal(chair.means, red.means)
    assert (tmp_path / "objects" / "red-5.ply").read_text() == "not to be lost"
    with Image.open(tmp_path / "all.png") as sheet:
        assert sheet.height > 3 * 256


def test_without_an_output_several_get_a_folder_in_the_state_folder(tmp_path: Path, quick: tuple[object, ...]) -> None:
    (tmp_path / "prompts.txt").write_text("a red chair\na blue car\n")
    result = generate(tmp_path / "prompts.txt", *quick)
    assert result.exit_code == 0
    (folder,) = (tmp_path / "state" / "generated").iterdir()
    made = sorted(folder.iterdir())
    assert [re.sub(r"\d+", "N", path.name) for path in made] == ["a-blue-car-N.ply", "a-red-chair-N.ply"]
    assert all(str(path) in result.stdout for path in made)


def test_a_prompt_that_fails_does_not_stop_the_others(picture: Path, tmp_path: Path, quick: tuple[object, ...]) -> None:
    Image.new("RGBA", (64, 64)).save(tmp_path / "nothing.png")
    words = (tmp_path / "nothing.png", tmp_path / "none.png", picture)
    result = generate(*words, *quick, "-o", tmp_path / "objects", "--explain", tmp_path / "why")
    assert result.exit_code == 2
    errors = result.stderr.splitlines()
    assert errors[0].startswith(f"ERROR: {tmp_path}/none.png: ")
    assert errors[1].startswith(f"ERROR: {tmp_path}/nothing.png: ")
    assert errors[2:] == ["ERROR: 2 of 3 prompts did not become an object"]
    (made,) = (tmp_path / "objects").iterdir()
    pages = {path.parent.name for path in (tmp_path / "why").glob("*/index.html")}
    assert made.stem in pages
    assert len(pages) == 2


def test_an_interruption_leaves_what_was_made_and_its_sheet(
    tmp_path: Path, quick: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Generation.make

    def interrupt_the_second(work: Generation, prompt: Prompt, *others: Any) -> MadeObject:
        if isinstance(prompt, TextPrompt) and prompt.text == "a blue car":
            raise KeyboardInterrupt
        return make(work, prompt, *others)

    monkeypatch.setattr(Generation, "make", interrupt_the_second)
    out = ("-o", tmp_path / "objects", "--sheet", tmp_path / "all.png")
    result = generate("a red chair", "a blue car", "a yellow duck", *quick, *out)
    assert result.exit_code == 1
    assert [path.name.startswith("a-red-chair") for path in (tmp_path / "objects").iterdir()] == [True]
    with Image.open(tmp_path / "all.png") as sheet:
        assert 256 < sheet.height < 512


def test_if_no_prompt_can_be_read_nothing_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.gpu.load_models", lambda *_: pytest.fail("loaded"))
    result = generate("a chair " * 200, tmp_path / "none.png", "--phase", "demo", "--state", tmp_path / "state")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "ERROR: none of the prompts can be read"
    assert not (tmp_path / "state").exists()


def test_several_prompts_do_not_go_into_one_file(tmp_path: Path, quick: tuple[object, ...]) -> None:
    result = generate("a red chair", "a blue car", *quick, "-o", tmp_path / "a.ply")
    assert result.exit_code == 2
    assert f"--output must be a folder for 2 prompts, not the file {tmp_path}/a.ply" in result.stderr


@pytest.mark.parametrize("has_desktop", [True, False])
def test_a_sheet_is_opened_where_there_is_a_desktop(
    picture: Path, tmp_path: Path, quick: tuple[object, ...], monkeypatch: pytest.MonkeyPatch, has_desktop: bool
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", lambda path: bool(opened.append(path)))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0" if has_desktop else "")
    # Beside the picture of the same name, which stays as it is.
    content = picture.read_bytes()
    result = generate(picture, *quick, "-o", tmp_path / "red.ply", "--open")
    assert result.exit_code == 0
    sheet = tmp_path / "red-sheet.png"
    assert opened == [str(sheet)] * has_desktop
    assert sheet.stat().st_size > 1000
    assert picture.read_bytes() == content
    assert ("no desktop to show" in result.stderr) is not has_desktop


def test_without_weights_the_first_line_names_what_needs_none(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    result = generate("a red chair", "--phase", "phase3", "--state", tmp_path / "state")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("ERROR: phase phase3 cannot be loaded, try `--phase demo`, which needs no weights: ")
    assert "sn17-miner weights download microsoft/TRELLIS-text-xlarge" in line
    result = generate(picture, "--phase", "demo", "--checkpoint", tmp_path / "none", "--state", tmp_path / "state")
    assert "try `--phase demo`" in result.stderr


def test_one_checkpoint_is_not_for_pictures_and_sentences(picture: Path, tmp_path: Path) -> None:
    words = ("a red chair", picture, "--phase", "demo", "--checkpoint", "embedded", "--state", tmp_path / "state")
    assert "--checkpoint is for pictures or for sentences, and there are both" in generate(*words).stderr


def test_a_phase_without_text_checkpoint_says_so(tmp_path: Path) -> None:
    result = generate("a red chair", "--phase", "few-step", "--state", tmp_path)
    assert result.exit_code == 2
    assert "the phase has no text.checkpoint: name one with --checkpoint" in result.stderr


@pytest.fixture
def phases(tmp_path: Path) -> Path:
    """A folder for phases that extend the shipped ones, beside the settings file `tmp_path/miner.yaml`."""
    (tmp_path / "miner.yaml").write_text("phase: demo\n")
    (tmp_path / "phases").mkdir()
    return tmp_path / "phases"


def test_the_best_of_a_phases_candidates_is_written_and_each_is_told(
    monkeypatch: pytest.MonkeyPatch, picture: Path, phases: Path, tmp_path: Path
) -> None:
    # Drawing all sixteen is slow on a processor; pipeline.test_scoring does it.
    monkeypatch.setattr("pipeline.scoring.views.validator_cameras", lambda: validator_cameras()[:2])
    (phases / "quick.yaml").write_text(QUICK)
    (phases / "two.yaml").write_text(
        f"extends: quick\nscorer: {{weights: {write_scorer(tmp_path)}}}\ncandidates: {{count: 2, seconds: 600}}\n"
        "gate: {quality: 1}\n"
    )
    out, config = tmp_path / "out.ply", ("--config", tmp_path / "miner.yaml")
    result = generate(picture, "--phase", "two", "--seed", 3, "-o", out, *config)
    assert result.exit_code == 0
    told = result.stdout
    found = re.findall(r"^candidate (\d): seed (\d+), [\d.]+ s, quality ([\d.]+)$", told, re.MULTILINE)
    assert [(number, seed) for number, seed, _ in found] == [("1", "3"), ("2", str(candidate_seed(3, 1)))]
    best = max(found, key=lambda row: float(row[2]))
    assert f"seed {best[1]}, " in told.partition("would withhold it")[2]
    # Scored as it would be sent, the right way up.
    splats = flip_up_axis(ply.from_bytes(out.read_bytes()))
    quality = QualityNetwork.load(str(tmp_path), torch.device("cpu")).measure(render_validator_views(splats))
    assert float(best[2]) == pytest.approx(quality, abs=0.01)
    assert generate(picture, "--phase", "quick", "--seed", best[1], "-o", out, *config).exit_code == 0
    torch.testing.assert_close(flip_up_axis(ply.from_bytes(out.read_bytes())).means, splats.means)


def test_a_sentence_goes_through_a_picture_where_the_phase_says_so(
    monkeypatch: pytest.MonkeyPatch, phases: Path, tmp_path: Path
) -> None:
    (phases / "drawn.yaml").write_text("extends: demo\ntext: null\ntext_to_image: {model: org/turbo}\n")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    result = generate("a red chair", "--phase", "drawn", "--config", tmp_path / "miner.yaml")
    assert result.exit_code == 2
    assert "text_to_image needs the packages diffusers and transformers" in result.stderr
