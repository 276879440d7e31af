"""A sentence into a picture with diffusers, and that into an object: sentences without a text checkpoint.

diffusers is an optional dependency (the extra text-to-image), imported only when a model is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

from pipeline.compute import ComputeConfig
from pipeline.conditioning.pretrained import silence
from pipeline.conditioning.prompt import ImagePrompt, TextPrompt
from pipeline.errors import (
    CheckpointError,
    EmptyForeground,
    EmptyStructure,
    NonFiniteOutput,
    OutOfMemory,
    PipelineError,
    TextToImageError,
    TooManyVoxels,
)
from pipeline.params import TextToImageParams
from pipeline.request import PICTURE_STAGE, Asset, OnStep, Request, ignore_steps
from pipeline.weights.locate import MODEL_INDEX, locate

if TYPE_CHECKING:
    from pipeline.backends.backend import Backend

_INSTALL = "text_to_image needs the package diffusers: pip install '.[text-to-image]' in the miner's folder"
# Part of the names of files in half precision, which some repositories have beside those in full.
_HALF = "fp16"


class TextToImage:
    """Sentence -> picture, with any pipeline that diffusers' AutoPipelineForText2Image knows; one call at a time."""

    def __init__(self, pipe: Any) -> None:
        """`pipe`: a diffusers pipeline on its device."""
        self._pipe = pipe

    @staticmethod
    def load(reference: str, compute: ComputeConfig) -> TextToImage:
        """Load a model from a directory or, as "org/name[@revision]", from the local cache; safetensors only.

        Raises TextToImageError if diffusers is missing, CheckpointError if the model is, or does not fit.
        """
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            raise TextToImageError(f"{_INSTALL} ({error})") from None
        directory = locate(reference, MODEL_INDEX)
        diffusers.utils.logging.disable_progress_bar()
        silence()
        try:
            pipe = diffusers.AutoPipelineForText2Image.from_pretrained(
                str(directory),
                # float16 overflows in some of these models' decoders.
                dtype=torch.bfloat16 if compute.device.type == "cuda" else torch.float32,
                variant=_HALF if _has_half(directory) else None,
                use_safetensors=True,
                local_files_only=True,
            )
            pipe.set_progress_bar_config(disable=True)
            return TextToImage(pipe.to(compute.device))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # diffusers raises whatever its parts do
            why = " ".join(str(error).split())
            raise CheckpointError(f"diffusers cannot load {directory} ({type(error).__name__}: {why})") from error

    @torch.inference_mode()
    def __call__(self, sentence: str, seed: int, params: TextToImageParams) -> Image.Image:
        """The picture of a sentence, RGB, of the model's own size. The noise is drawn on the CPU from the seed.

        Raises OutOfMemory, NonFiniteOutput if the model has drawn nothing but one colour, or TextToImageError.
        """
        try:
            result = self._pipe(
                prompt=sentence,
                num_inference_steps=params.steps,
                guidance_scale=params.guidance,
                generator=torch.Generator("cpu").manual_seed(seed),
            )
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            why = " ".join(str(error).split())
            raise TextToImageError(f"diffusers failed with steps and guidance of the phase: {why}") from error
        else:
            picture: Image.Image = result.images[0].convert("RGB")
            pixels = np.asarray(picture)
            if (pixels == pixels[0, 0]).all():
                # What is not a number is drawn black, and what a filter of contents refuses, too.
                raise NonFiniteOutput("the text-to-image model has drawn an empty picture")
            return picture
        # Outside the handler, since the error holds on to the tensors of every frame it came through.
        torch.cuda.empty_cache()
        raise OutOfMemory(f"the GPU's memory does not suffice for text_to_image ({reason})")


class TextToImageBackend:
    """A backend for pictures that draws sentences first, each with the seed of its request; see Backend."""

    def __init__(self, backend: Backend, draw: TextToImage, device: torch.device) -> None:
        self.backend = backend
        self.text = draw
        self._device = device

    @property
    def image(self) -> object | None:
        """What turns pictures into objects."""
        return self.backend.image

    def generate(self, request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """As the backend does; the seconds of a sentence's object hold those for its picture, too.

        Raises what the backend and TextToImage raise.
        """
        if not isinstance(request.prompt, TextPrompt):
            return self.backend.generate(request, on_step)
        started = time.perf_counter()
        picture = self.text(request.prompt.text, request.seed, request.text_to_image_params)
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - started
        # May stop it, before the longer part begins.
        on_step(PICTURE_STAGE, request.text_to_image_params.steps, request.text_to_image_params.steps)
        digest = hashlib.sha256(picture.tobytes()).hexdigest()[:12]
        asset = self.backend.generate(replace(request, prompt=ImagePrompt(picture, digest)), on_step)
        return replace(asset, seconds={PICTURE_STAGE: seconds, **asset.seconds})

    def generate_batch(
        self, request: Request, seeds: Sequence[int], on_step: OnStep = ignore_steps
    ) -> list[Asset | PipelineError]:
        """As the backend does; of a sentence each seed draws its own picture."""
        if not isinstance(request.prompt, TextPrompt):
            return self.backend.generate_batch(request, seeds, on_step)
        outcomes: list[Asset | PipelineError] = []
        for seed in seeds:
            try:
                outcomes.append(self.generate(replace(request, seed=seed), on_step))
            except (EmptyForeground, EmptyStructure, NonFiniteOutput, TooManyVoxels) as error:
                outcomes.append(error)
        return outcomes


def _has_half(directory: Path) -> bool:
    """Whether there are files of half precision, which are smaller and taken first, also by download_weights.py."""
    return any(f".{_HALF}." in path.name for path in directory.glob("*/*.safetensors"))
