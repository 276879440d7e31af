import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline.conditioning.background import BackgroundRemover
from pipeline.errors import BackgroundModelError
from pipeline.weights.background_models import BACKGROUND_MODELS, check_model_file, model_path
from tests.support.resident import anonymous_bytes

MODEL = "u2netp"
COMMAND = f"sn17-miner weights download {MODEL}"


@pytest.fixture(scope="module")
def installed() -> Path:
    """The real model, where this machine keeps it."""
    return model_path(MODEL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where rembg looks for models."""
    monkeypatch.setenv("U2NET_HOME", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture(scope="module")
def remover(installed: Path) -> BackgroundRemover:
    return BackgroundRemover(MODEL)


def photo(size: tuple[int, int] = (320, 240)) -> Image.Image:
    """A shaded ball before a plain wall."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    pixels = np.zeros((height, width, 3))
    pixels[:] = 205 + 15 * y[:, :, None] / height
    radius = height * 0.3
    inside = (x - width / 2) ** 2 + (y - height / 2) ** 2 < radius**2
    light = 1 - 0.5 * np.hypot(x - width * 0.45, y - height * 0.42) / radius
    pixels[inside] = (light[:, :, None] * [190, 40, 30])[inside].clip(0, 255)
    return Image.fromarray(pixels.astype(np.uint8))


def test_an_object_is_cut_out_of_its_background(remover: BackgroundRemover) -> None:
    picture = photo()
    cutout = remover(picture)
    assert (cutout.mode, cutout.size) == ("RGBA", picture.size)
    alpha = np.array(cutout.getchannel("A"))
    disc = Image.new("L", picture.size)
    ImageDraw.Draw(disc).circle((160, 120), 72, fill=255)
    expected = np.array(disc) > 0
    found = alpha > 128
    assert (found & expected).sum() / (found | expected).sum() > 0.9
    assert np.array_equal(np.array(cutout)[expected & (alpha == 255), :3], np.array(picture)[expected & (alpha == 255)])


def test_a_loaded_model_keeps_no_memory_of_its_passes(installed: Path) -> None:
    before = anonymous_bytes()
    remover = BackgroundRemover(MODEL)
    for _ in range(3):
        remover(photo())
    # The model takes 30 MB; each pass takes 300 MB for a moment.
    assert anonymous_bytes() - before < 120e6
    assert remover.model == MODEL


def test_the_provider_in_use_is_known(remover: BackgroundRemover) -> None:
    assert (remover.model, remover.provider) == (MODEL, "CPUExecutionProvider")


def test_auto_is_the_cpu_where_there_is_no_gpu(installed: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "pipeline.conditioning.background"):
        assert BackgroundRemover(MODEL, "auto").provider == "CPUExecutionProvider"
    assert "Backgrounds are removed by u2netp on CPUExecutionProvider" in caplog.text


def test_cuda_without_its_runtime_is_refused(installed: Path) -> None:
    import onnxruntime

    assert "CUDAExecutionProvider" not in onnxruntime.get_available_providers()
    with pytest.raises(BackgroundModelError, match=r"runs u2netp on CPUExecutionProvider: .* \[gpu\] .*provider: cpu"):
        BackgroundRemover(MODEL, "cuda")


def test_the_model_is_looked_for_where_the_environment_says(home: Path, installed: Path) -> None:
    home.mkdir()
    expected = model_path(MODEL)
    assert expected.is_relative_to(home)
    expected.parent.mkdir(parents=True, exist_ok=True)
    expected.symlink_to(installed)
    assert BackgroundRemover(MODEL).model == MODEL


def test_a_file_beside_the_folders_is_found_too(home: Path, installed: Path) -> None:
    home.mkdir()
    (home / f"{MODEL}.onnx").symlink_to(installed)
    assert model_path(MODEL) == home / f"{MODEL}.onnx"


def test_a_missing_file_names_the_command(home: Path) -> None:
    with pytest.raises(BackgroundModelError, match=f"{MODEL} is missing at .*: run `{COMMAND}`") as caught:
        BackgroundRemover(MODEL)
    assert str(home) in str(caught.value)
    assert not home.exists()


def test_a_changed_file_is_refused(home: Path, installed: Path) -> None:
    home.mkdir()
    content = bytearray(installed.read_bytes())
    content[-1] ^= 1
    path = home / f"{MODEL}.onnx"
    path.write_bytes(content)
    with pytest.raises(
        BackgroundModelError, match=f"has sha256 [0-9a-f]{{64}}, not {BACKGROUND_MODELS[MODEL]}: delete .* `{COMMAND}`"
    ):
        BackgroundRemover(MODEL)


def test_the_installed_file_is_the_published_one(installed: Path) -> None:
    check_model_file(MODEL)


# rembg's default is not free for commercial use; withoutbg sends pictures to a service.
@pytest.mark.parametrize("model", ["bria-rmbg", "withoutbg", "", "u2net_custom", "../u2net"])
def test_another_model_is_refused(model: str) -> None:
    with pytest.raises(BackgroundModelError, match=r"unknown background model .*; known are u2net, u2netp, birefnet"):
        BackgroundRemover(model)


@pytest.mark.parametrize("missing", ["rembg", "onnxruntime"])
def test_a_missing_package_names_the_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackgroundModelError, match=rf"{missing}.*: pip install 'sn17-miner\[cpu\]' or"):
        BackgroundRemover(MODEL)


def test_known_models_are_rembg_s() -> None:
    from rembg.sessions import sessions

    assert set(BACKGROUND_MODELS) <= set(sessions)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in BACKGROUND_MODELS.values())
