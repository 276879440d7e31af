"""Several pictures of one object, sentences, and too little memory."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw

from pipeline import (
    Asset,
    CheckpointError,
    CheckpointSource,
    Combine,
    Generator,
    ImagePrompt,
    ImagesPrompt,
    OutOfMemory,
    PromptError,
    Request,
    SamplerParams,
    TextPrompt,
    UnsupportedPrompt,
    choose_compute,
)
from pipeline.splats.validation import invalid_reason

STRUCTURE = SamplerParams(steps=3, cfg_strength=1.0, cfg_interval=(0.5, 1.0), rescale_t=3.0)
LATENTS = replace(STRUCTURE, steps=2)


def picture(colour: str, box: tuple[int, int, int, int] = (54, 10, 74, 118)) -> ImagePrompt:
    image = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(image).ellipse(box, fill=colour)
    return ImagePrompt(image, image.tobytes())


FRONT, BACK = picture("red"), picture("blue", (10, 50, 120, 80))
EGG = Request(FRONT, 0, STRUCTURE, LATENTS)


def close(a: Asset, b: Asset) -> bool:
    return a.voxels == b.voxels and all(
        torch.allclose(x, y, atol=1e-4 * float(y.abs().max()))
        for x, y in ((a.splats.means, b.splats.means), (a.splats.f_dc, b.splats.f_dc))
    )


@pytest.fixture(scope="module")
def egg(generator: Generator) -> Asset:
    """What is made of the front view."""
    return generator.generate(EGG)


@pytest.fixture(scope="module")
def plate(generator: Generator) -> Asset:
    """What is made of the back view."""
    return generator.generate(replace(EGG, prompt=BACK))


@pytest.fixture(scope="module")
def combined(generator: Generator) -> dict[Combine, Asset]:
    """What is made of both views, by how they are combined."""
    ways = ("stochastic", "multidiffusion")
    return {way: generator.generate(replace(EGG, prompt=ImagesPrompt((FRONT, BACK), way))) for way in ways}


@pytest.mark.parametrize("combine", ["stochastic", "multidiffusion"])
def test_several_views_are_all_seen(
    generator: Generator, egg: Asset, plate: Asset, combined: dict[Combine, Asset], combine: Combine
) -> None:
    assert not any(close(combined[combine], other) for other in (egg, plate))
    again = generator.generate(replace(EGG, prompt=ImagesPrompt((FRONT, FRONT), combine)))
    assert close(again, egg)


def test_views_that_take_turns_and_views_that_are_averaged_differ(combined: dict[Combine, Asset]) -> None:
    assert not close(combined["stochastic"], combined["multidiffusion"])


def test_no_view_is_no_prompt() -> None:
    with pytest.raises(PromptError, match="no image"):
        ImagesPrompt(())


@pytest.fixture(scope="module")
def both() -> Generator:
    return Generator.load(
        choose_compute("cpu"),
        image=CheckpointSource("embedded"),
        text=CheckpointSource("embedded-text"),
        background_models=["u2netp"],
    )


def test_sentences_and_pictures_go_to_their_own_networks(both: Generator, egg: Asset) -> None:
    chair, ball = (both.generate(replace(EGG, prompt=TextPrompt(text))) for text in ("a red chair", "a blue ball"))
    assert invalid_reason(chair.splats) is None
    assert not close(chair, ball)
    assert chair.seconds["background"] == 0
    assert close(both.generate(EGG), egg)


def test_networks_of_the_same_file_are_loaded_once(both: Generator) -> None:
    assert both.image is not None
    assert both.text is not None
    image, text = both.image.engine.checkpoint, both.text.engine.checkpoint
    assert image.structure_decoder is text.structure_decoder
    assert image.latent_flow is text.latent_flow


def test_sentences_are_guided_away_from_the_empty_one(both: Generator) -> None:
    assert both.text is not None
    encoder = both.text.encoder
    seen = []
    flow = both.text.engine.checkpoint.structure_flow
    hook = flow.register_forward_pre_hook(lambda _module, args: seen.append(args[2]))
    both.generate(replace(EGG, prompt=TextPrompt("a red chair")))
    hook.remove()
    assert torch.equal(seen[0], encoder("a red chair"))
    assert torch.equal(seen[1], encoder(""))


@pytest.mark.parametrize("kind", ["image", "text"])
def test_prompts_without_a_checkpoint_are_refused(both: Generator, kind: str) -> None:
    lacking = Generator(
        choose_compute("cpu"), None if kind == "image" else both.image, None if kind == "text" else both.text
    )
    prompt = picture("red") if kind == "image" else TextPrompt("a chair")
    with pytest.raises(UnsupportedPrompt, match=f"no {kind} checkpoint is loaded; the phase needs {kind}: "):
        lacking.generate(replace(EGG, prompt=prompt))


def test_an_encoder_of_another_width_is_refused(tiny_text_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for entry in tiny_text_checkpoint.iterdir():
        (folder / entry.name).symlink_to(entry)
    flows = ("sparse_structure_flow_model", "slat_flow_model")
    embedded = Path("pipeline/checkpoints/tiny/ckpts").resolve()
    overrides = {
        role: str(embedded / name) for role, name in zip(flows, ("ss_flow_tiny", "slat_flow_tiny"), strict=True)
    }
    with pytest.raises(CheckpointError, match=r"makes tokens of width \d+, the flows take \d+"):
        Generator.load(
            choose_compute("cpu"), text=CheckpointSource(str(folder), overrides), background_models=["u2netp"]
        )


@pytest.fixture
def starve(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], list[int]]:
    """Let a method of the engine run out of memory so many times; returns the voxels it was then given."""

    def arrange(method: str, times: int) -> list[int]:
        assert generator.image is not None
        engine = generator.image.engine
        works, given = getattr(engine, method), []

        def starved(*arguments: Any) -> Any:
            given.append(len(arguments[2]))
            if len(given) <= times:
                raise torch.OutOfMemoryError(
                    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 4 GiB"
                )
            return works(*arguments)

        monkeypatch.setattr(engine, method, starved)
        return given

    return arrange


def test_without_memory_half_the_voxels_are_tried(generator: Generator, egg: Asset, starve) -> None:
    given = starve("sample_latents", 1)
    made = generator.generate(EGG)
    assert given == [egg.voxels, egg.voxels // 2]
    assert made.voxels == egg.voxels // 2


def test_without_memory_half_of_a_given_structure_is_tried(generator: Generator, egg: Asset, starve) -> None:
    given = starve("sample_latents", 1)
    made = generator.generate(replace(EGG, structure=egg.structure))
    assert given == [egg.voxels, egg.voxels // 2]
    assert made.voxels == egg.voxels // 2


def test_memory_that_was_short_for_a_moment_costs_nothing(generator: Generator, egg: Asset, starve) -> None:
    starve("sample_structure", 1)
    assert close(generator.generate(EGG), egg)


@pytest.mark.parametrize("method", ["sample_structure", "sample_latents"])
def test_without_memory_at_all_the_error_says_what_was_asked_for(
    generator: Generator, egg: Asset, starve, method: str
) -> None:
    starve(method, 2)
    what = f"{egg.voxels} voxels" if method == "sample_latents" else "the structure"
    with pytest.raises(OutOfMemory, match=f"does not suffice for {what} .*out of memory.*lower max_voxels"):
        generator.generate(EGG)
    assert generator.generate(EGG).voxels == egg.voxels


def test_warming_up_meets_structures_of_several_sizes(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert generator.image is not None
    engine, sizes = generator.image.engine, []
    conditions = generator.encode(EGG.prompt).encoded.conditions
    hook = engine.checkpoint.latent_flow.register_forward_pre_hook(lambda _flow, args: sizes.append(len(args[1])))
    assert len(list(engine.warm_up_steps(conditions))) == 0
    assert sizes == []  # the plain flows treat all sizes alike
    monkeypatch.setattr(engine.flows, "warm_up_sizes", [(20, 99), (40, 275)])
    monkeypatch.setattr(generator, "generate", lambda _request: None)
    generator.warm_up()
    hook.remove()
    # Two guided steps evaluate two velocities each, two others one.
    assert sizes == [275] * 6 + [99] * 6
