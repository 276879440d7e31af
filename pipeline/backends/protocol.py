"""The interface of all backends."""

from __future__ import annotations

from typing import Any, Protocol

from pipeline.conditioning.prompt import Prompt
from pipeline.request import Asset, Conditioning, OnStep, Request, ignore_steps


class Backend(Protocol):
    """An implementation of generation: prompts are encoded once, then objects are sampled; one call at a time."""

    @property
    def supports_image(self) -> bool:
        """Return whether the backend generates from images."""

    @property
    def supports_text(self) -> bool:
        """Return whether the backend generates from sentences."""

    def warm_up(self) -> None:
        """Generate one object of each kind, so that the first request is as fast as any other."""

    def encode(self, prompt: Prompt) -> Conditioning[Any]:
        """Encode a prompt, for any number of samples.

        Raises PromptError.
        """

    def sample(self, conditioning: Conditioning[Any], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Generate one object from an encoded prompt with the request's seed and settings.

        `on_step` is called after each sampler step and may raise Cancelled to stop. The asset's seconds are those of
        sampling alone. Raises PipelineError, or what on_step raises.
        """

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Encode the request's prompt and generate one object from it; the asset has the seconds of both.

        Raises what `encode` and `sample` raise.
        """
