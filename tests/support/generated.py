"""Pictures, splats and a backend that tests make without bittensor, which the GPU machine does not have."""

import base64
import io
from collections.abc import Callable, Iterator

import torch
from PIL import Image

from pipeline import (
    STAGES,
    Asset,
    Conditioning,
    ImagePrompt,
    OnStep,
    Prompt,
    Request,
    Score,
    ScoredViews,
    Splats,
    decode_image_prompt,
)


def make_splats(count: int = 7000, seed: int = 0) -> Splats:
    generator = torch.Generator().manual_seed(seed)
    return Splats(
        means=torch.rand(count, 3, generator=generator) - 0.5,
        quaternions=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator)),
        log_scales=torch.full((count, 3), -4.5),
        opacity_logits=torch.randn(count, generator=generator),
        f_dc=torch.randn(count, 3, generator=generator),
    )


def make_asset(request: Request, count: int = 7000) -> Asset:
    return Asset(make_splats(count, request.seed), request.seed, count // 32, dict.fromkeys(STAGES, 0.25))


def instant_generate(request: Request, on_step: OnStep) -> Asset:
    return make_asset(request)


class FakeBackend:
    """A backend whose objects are a function of the request."""

    supports_image = supports_text = True

    def samples_on_structures(self, prompt: Prompt) -> bool:
        return False

    def __init__(self, generate: Callable[[Request, OnStep], Asset] = instant_generate) -> None:
        self._generate = generate
        self.encoded: list[Prompt] = []

    def warm_up_steps(self) -> Iterator[None]:
        yield

    def encode(self, prompt: Prompt) -> Conditioning[None]:
        self.encoded.append(prompt)
        return Conditioning(None, {})

    def sample(self, conditioning: object, request: Request, on_step: OnStep = lambda *_: None) -> Asset:
        return self._generate(request, on_step)

    def generate(self, request: Request, on_step: OnStep = lambda *_: None) -> Asset:
        return self.sample(self.encode(request.prompt), request, on_step)


class FakeScorer:
    """A scorer whose quality is a function of the splats, for whatever prompt; its views are a shade of grey."""

    def __init__(self, quality: Callable[[Splats], float]) -> None:
        self._quality = quality
        self.prompts: list[Prompt] = []

    def for_prompt(self, prompt: Prompt) -> Callable[[Splats], ScoredViews]:
        self.prompts.append(prompt)

        def score(splats: Splats) -> ScoredViews:
            quality = self._quality(splats)
            shade = torch.tensor(255 * min(max(quality, 0.0), 1.0)).to(torch.uint8)
            return ScoredViews(Score(quality=quality), shade.expand(16, 518, 518, 3))

        return score

    def warm_up(self) -> None:
        pass


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def png_base64(image: Image.Image) -> str:
    return base64.b64encode(png(image)).decode()


def make_picture() -> Image.Image:
    """A red box on a transparent ground."""
    image = Image.new("RGBA", (64, 64))
    image.paste((200, 30, 30, 255), (27, 4, 37, 60))
    return image


def image_prompt() -> ImagePrompt:
    return decode_image_prompt(png(make_picture()))
