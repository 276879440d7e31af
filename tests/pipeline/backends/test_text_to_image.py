"""Sentences through a picture: the adapter against a stand-in for diffusers."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline import (
    STAGES,
    Asset,
    Cancelled,
    CheckpointError,
    CheckpointSource,
    Conditioning,
    CutOutParams,
    EmptyForeground,
    Generator,
    ImagePrompt,
    NonFiniteOutput,
    OnStep,
    OutOfMemory,
    Prompt,
    Request,
    TextPrompt,
    TextToImageError,
    TextToImageParams,
    choose_compute,
    load_backend,
)
from pipeline.backends.text_to_image import TextToImage, TextToImageBackend, drawing_seed
from pipeline.scoring.best_of_n import candidate_seed
from tests.pipeline.test_generator import FEW, FEWER, drawing, same
from tests.support.generated import FakeBackend, make_asset

CPU = choose_compute("cpu")
# The outside of diffusers that the adapter calls.
FAKE = """
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image


utils = SimpleNamespace(
    logging=SimpleNamespace(disable_progress_bar=lambda: None, set_verbosity_error=lambda: None)
)


class AutoPipelineForText2Image:
    def __init__(self, path, options):
        self.path, self.options = path, options
        self.calls, self.device, self.failure, self.empty = [], None, None, False

    @classmethod
    def from_pretrained(cls, path, **options):
        if not any(Path(path).rglob("*.safetensors")):
            raise OSError("no file named diffusion_pytorch_model.safetensors\\nfound")
        return cls(path, options)

    def to(self, device):
        self.device = device
        return self

    def set_progress_bar_config(self, disable):
        self.quiet = disable

    def __call__(self, *, prompt, num_inference_steps, guidance_scale, generator):
        self.calls.append((prompt, num_inference_steps, guidance_scale, generator.device.type))
        if self.failure:
            raise self.failure
        noise = torch.rand(64, 64, 3, generator=generator)
        if self.empty:
            noise.zero_()
        return SimpleNamespace(images=[Image.fromarray((noise * 255).to(torch.uint8).numpy())])
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in as the package `diffusers`."""
    (tmp_path / "packages" / "diffusers").mkdir(parents=True)
    file = tmp_path / "packages" / "diffusers" / "__init__.py"
    file.write_text(FAKE)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    for name in [name for name in sys.modules if name.split(".")[0] == "diffusers"]:
        monkeypatch.delitem(sys.modules, name)
    yield file
    sys.modules.pop("diffusers", None)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    (directory / "unet").mkdir(parents=True)
    (directory / "model_index.json").write_text("{}")
    (directory / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    return directory


@pytest.fixture
def draw(package: Path, model: Path) -> TextToImage:
    return TextToImage.load(str(model), CPU)


def pipe(draw: TextToImage) -> Any:
    return draw.pipe


class Square:
    """In the place of a model: a square whose place follows from the seed, so that an object can be made of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, TextToImageParams]] = []

    def __call__(self, sentence: str, seed: int, params: TextToImageParams) -> Image.Image:
        self.calls.append((sentence, seed, params))
        picture = Image.new("RGB", (96, 96), "white")
        left = 34 + seed % 7
        picture.paste((200, 30, 30), (left, 14, left + 12, 82))
        return picture


@pytest.fixture
def square() -> Square:
    return Square()


@pytest.fixture
def backend(generator: Generator, square: Square) -> TextToImageBackend:
    return TextToImageBackend(generator, square, CPU.device)  # type: ignore[arg-type]


REQUEST = Request(TextPrompt("a red box"), 3, FEW, FEWER, text_to_image_params=TextToImageParams(2, 1.5))


class Mattes(FakeBackend):
    """A backend for images whose mattes a test rates by the order in which they come; None cannot be cut out."""

    def __init__(self, *ratings: float | None) -> None:
        super().__init__()
        self.ratings = list(ratings)

    def encode(self, prompt: Prompt) -> Any:
        rating = self.ratings.pop(0)
        if rating is None:
            raise EmptyForeground("nothing there")
        picture = SimpleNamespace(cut_out=SimpleNamespace(expected_iou=rating))
        return Conditioning(rating, {"background": 0.5, "conditioning": 0.25}, (picture,))  # type: ignore[arg-type]

    def sample(self, conditioning: Any, request: Request, on_step: OnStep = lambda *_: None) -> Asset:
        return replace(super().sample(conditioning, request), pictures=conditioning.pictures)


def test_of_several_drawings_the_best_matte_comes_first_and_the_others_in_turn(square: Square) -> None:
    backend = TextToImageBackend(Mattes(0.3, 0.9, None, 0.6), square, CPU.device)  # type: ignore[arg-type]
    params = TextToImageParams(2, drawings=4)
    request = replace(REQUEST, prompt=TextPrompt("a red box", "{prompt}, alone"), text_to_image_params=params)
    conditioning = backend.encode(request.prompt)
    seeds = [candidate_seed(request.seed, index) for index in range(4)]
    assets = [backend.sample(conditioning, replace(request, seed=seed)) for seed in seeds]
    assert [asset.pictures[0].cut_out.expected_iou for asset in assets] == [0.9, 0.6, 0.3, 0.9]
    drawn = [drawing_seed(request.seed, index) for index in range(4)]
    assert square.calls == [("a red box, alone", seed, params) for seed in drawn]
    assert drawn[0] == request.seed
    # The first object has the time of all drawings, also of those that others take and of the one that is left out.
    assert [asset.seconds["picture"] > 0 for asset in assets] == [True, False, False, False]
    own = make_asset(request).seconds
    assert assets[0].seconds["conditioning"] == own["conditioning"] + 3 * 0.25
    assert assets[0].seconds["background"] > own["background"] + 3 * 0.5
    assert [asset.seconds["background"] for asset in assets[1:]] == [own["background"]] * 3


def test_if_no_drawing_can_be_cut_out_the_first_error_is_told(backend: TextToImageBackend, square: Square) -> None:
    params = TextToImageParams(2, drawings=2, cut_out=CutOutParams(min_side=1000))
    with pytest.raises(EmptyForeground, match=r"framing.min_side"):
        backend.generate(replace(REQUEST, text_to_image_params=params))
    assert len(square.calls) == 2


def test_no_two_candidates_draw_the_same() -> None:
    """Each device draws for the first candidate that it makes."""
    candidates = [candidate_seed(5, index) for index in range(300)]
    drawn = [drawing_seed(seed, index) for seed in candidates for index in range(16)]
    assert len(set(drawn)) == len(drawn)


def test_what_the_model_is_loaded_and_asked_with(draw: TextToImage, model: Path) -> None:
    draw("a chair", 7, TextToImageParams(steps=3, guidance=2.5))
    assert pipe(draw).path == str(model)
    assert pipe(draw).options == {
        "dtype": torch.float32,
        "variant": None,
        "use_safetensors": True,
        "local_files_only": True,
    }
    assert (pipe(draw).device, pipe(draw).quiet) == (CPU.device, True)
    # The noise comes from the CPU on every device.
    assert pipe(draw).calls == [("a chair", 3, 2.5, "cpu")]


def test_the_seed_decides_the_picture(draw: TextToImage) -> None:
    first, again, other = (np.asarray(draw("a chair", seed, TextToImageParams())) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_files_of_half_precision_are_taken(package: Path, model: Path) -> None:
    (model / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"")
    assert pipe(TextToImage.load(str(model), CPU)).options["variant"] == "fp16"


def test_a_missing_package_is_named_with_its_cure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(
        TextToImageError,
        match=r"needs the packages diffusers and transformers .*: pip install 'sn17-miner\[text-to-image\]'",
    ):
        TextToImage.load(str(model), CPU)


def test_pickles_are_not_read(package: Path, model: Path) -> None:
    file = model / "unet" / "diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(CheckpointError, match=r"diffusers cannot load .*model \(OSError: no file named") as caught:
        TextToImage.load(str(model), CPU)
    assert "\n" not in str(caught.value)


def test_a_model_that_is_not_here_is_named_with_the_command(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(CheckpointError, match=r"run `.* org/turbo`"):
        TextToImage.load("org/turbo", CPU)
    with pytest.raises(CheckpointError, match=r"it has no model_index\.json"):
        TextToImage.load(str(tmp_path), CPU)


@pytest.mark.parametrize(
    ("failure", "error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), OutOfMemory, r"text_to_image \(CUDA out of memory\)"),
        (ValueError("`num_inference_steps` cannot be 999"), TextToImageError, "cannot be 999"),
        # Whatever else happens, such as a broken device, is not for this layer to hide.
        (RuntimeError("CUDA error: misaligned address"), RuntimeError, "misaligned"),
    ],
)
def test_failures(draw: TextToImage, failure: Exception, error: type[Exception], message: str) -> None:
    pipe(draw).failure = failure
    with pytest.raises(error, match=message):
        draw("a chair", 7, TextToImageParams())


def test_an_empty_picture_is_an_error(draw: TextToImage) -> None:
    pipe(draw).empty = True
    with pytest.raises(NonFiniteOutput, match="empty picture"):
        draw("a chair", 7, TextToImageParams())


def test_a_sentence_is_made_of_its_picture(backend: TextToImageBackend, generator: Generator, square: Square) -> None:
    asset = backend.generate(REQUEST)
    assert square.calls == [("a red box", 3, TextToImageParams(2, 1.5))]
    picture = square("", 3, TextToImageParams())
    assert same(asset.splats, generator.generate(replace(REQUEST, prompt=ImagePrompt(picture, b"x"))).splats)
    assert tuple(asset.seconds) == ("picture", *STAGES)
    assert asset.seconds["picture"] > 0
    assert asset.seed == 3


def test_pictures_go_through_as_before(backend: TextToImageBackend, generator: Generator, square: Square) -> None:
    request = replace(REQUEST, prompt=ImagePrompt(drawing("egg"), b"egg"))
    assert same(backend.generate(request).splats, generator.generate(request).splats)
    conditioning = backend.encode(request.prompt)
    assert tuple(backend.sample(conditioning, request).seconds) == STAGES
    assert square.calls == []


def test_each_seed_draws_its_own_picture_of_an_encoded_sentence(backend: TextToImageBackend, square: Square) -> None:
    conditioning = backend.encode(REQUEST.prompt)
    assert (conditioning.encoded.prompt, dict(conditioning.seconds), square.calls) == (REQUEST.prompt, {}, [])
    for seed in (3, 4):
        asset = backend.sample(conditioning, replace(REQUEST, seed=seed))
        assert all(asset.seconds[stage] > 0 for stage in ("picture", *STAGES))
    assert [seed for _, seed, _ in square.calls] == [3, 4]


def test_it_can_be_stopped_before_the_object_is_begun(backend: TextToImageBackend) -> None:
    steps: list[tuple[str, int, int]] = []

    def stop(*step: Any) -> None:
        steps.append(step)
        raise Cancelled("stop")

    with pytest.raises(Cancelled):
        backend.generate(REQUEST, stop)
    assert steps == [("picture", 2, 2)]


@pytest.mark.slow
def test_it_is_loaded_and_warmed_up_with_the_rest(package: Path, model: Path) -> None:
    backend = load_backend(
        "native",
        CPU,
        image=CheckpointSource("embedded"),
        text=None,
        background_models=["u2netp"],
        text_to_image=str(model),
    )
    assert isinstance(backend, TextToImageBackend)
    assert (backend.supports_image, backend.supports_text) == (True, True)
    backend.warm_up()
    assert [prompt for prompt, *_ in pipe(backend.text_to_image).calls] == ["a red ball"]
