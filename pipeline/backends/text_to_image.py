"""Sentences without a text checkpoint: a diffusers model draws a picture, and an image backend makes the object.

diffusers is an optional dependency (the extra text-to-image) that is imported only when a model is loaded.
"""

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.backends.diffusers_networks import find_variant, load_networks
from pipeline.compute import ComputeConfig
from pipeline.conditioning.pretrained import silence_transformers
from pipeline.conditioning.prompt import ImagePrompt, Prompt, TextPrompt
from pipeline.errors import CheckpointError, NonFiniteOutput, OutOfMemory, TextToImageError
from pipeline.generator import generate_first
from pipeline.params import TextToImageParams
from pipeline.request import PICTURE_STAGE, Asset, Backend, Conditioning, OnStep, Request, ignore_steps
from pipeline.weights.files import MODEL_INDEX, check_model
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate


@dataclass(frozen=True, eq=False)
class TextToImage:
    """A text-to-image model: any pipeline that diffusers' AutoPipelineForText2Image knows; one call at a time."""

    pipe: Any

    @staticmethod
    def load(reference: str, compute: ComputeConfig) -> "TextToImage":
        """Load a model from a directory or, as "org/name[@revision]", from the local cache; safetensors only.

        Raises TextToImageError if diffusers is missing, CheckpointError if the model is missing or does not fit.
        """
        try:
            diffusers = importlib.import_module("diffusers")
        except ImportError as error:
            raise TextToImageError(
                f"text_to_image needs the package diffusers ({error}): pip install 'sn17-miner[text-to-image]'"
            ) from None
        directory = locate(reference, MODEL_INDEX)
        check_model(directory)
        # float16 overflows in some of these models' decoders.
        dtype = torch.bfloat16 if compute.device.type == "cuda" else torch.float32
        diffusers.utils.logging.disable_progress_bar()
        # Its warnings recommend to train a network that is refused below.
        diffusers.utils.logging.set_verbosity_error()
        silence_transformers()
        try:
            pipe = diffusers.AutoPipelineForText2Image.from_pretrained(
                str(directory),
                dtype=dtype,
                variant=find_variant(directory),
                use_safetensors=True,
                local_files_only=True,
                **load_networks(diffusers, directory, dtype),
            )
            pipe.set_progress_bar_config(disable=True)
            return TextToImage(pipe.to(compute.device))
        except (torch.OutOfMemoryError, CheckpointError):
            raise
        except Exception as error:  # diffusers raises whatever its components raise
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"diffusers cannot load {directory} ({type(error).__name__}: {reason}){cure(directory)}"
            ) from error

    @torch.inference_mode()
    def __call__(self, sentence: str, seed: int, params: TextToImageParams) -> Image.Image:
        """Draw a sentence as an RGB picture of the model's own size, with noise drawn on the CPU from the seed.

        Raises OutOfMemory, TextToImageError, or NonFiniteOutput if the picture has a single colour.
        """
        try:
            result = self.pipe(
                prompt=sentence,
                num_inference_steps=params.steps,
                guidance_scale=params.guidance,
                generator=torch.Generator("cpu").manual_seed(seed),
            )
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            reason = " ".join(str(error).split())
            raise TextToImageError(f"diffusers failed with the steps and guidance of the phase: {reason}") from error
        else:
            picture: Image.Image = result.images[0].convert("RGB")
            pixels = np.asarray(picture)
            if (pixels == pixels[0, 0]).all():
                # NaN is drawn black, and so is content that a safety checker rejects.
                raise NonFiniteOutput("the text-to-image model drew an empty picture")
            return picture
        # Outside the handler, since the error holds on to the tensors of every frame it came through.
        torch.cuda.empty_cache()
        raise OutOfMemory(f"the GPU's memory does not suffice for text_to_image ({reason})")


@dataclass(frozen=True, eq=False)
class TextToImageBackend(Backend):
    """A backend for images with a text-to-image model on the same device in front of it, which draws sentences.

    The model draws with the request's seed; the conditioning of a sentence is therefore the sentence itself.
    """

    backend: Backend
    text_to_image: TextToImage
    device: torch.device

    @property
    def supports_image(self) -> bool:
        """Whether the image backend takes images."""
        return self.backend.supports_image

    @property
    def supports_text(self) -> bool:
        """True: sentences are drawn."""
        return True

    def samples_on_structures(self, prompt: Prompt) -> bool:
        """Return whether the image backend can; never for sentences, whose picture would be drawn again."""
        return not isinstance(prompt, TextPrompt) and self.backend.samples_on_structures(prompt)

    def warm_up_steps(self) -> Iterator[None]:
        """Warm up the image backend, then generate one object from a sentence; yield after each part."""
        yield from self.backend.warm_up_steps()
        yield from generate_first(self, self.device, image=False, text=True)

    def encode(self, prompt: Prompt) -> Conditioning[Any]:
        """Encode images with the image backend; leave a sentence as it is. Raises PromptError."""
        return Conditioning(prompt, {}) if isinstance(prompt, TextPrompt) else self.backend.encode(prompt)

    def sample(self, conditioning: Conditioning[Any], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Generate one object, drawing a sentence first; its asset's seconds then include all stages of the picture.

        Raises what the image backend and TextToImage raise.
        """
        if not isinstance(conditioning.encoded, TextPrompt):
            return self.backend.sample(conditioning, request, on_step)
        params = request.text_to_image_params
        started = time.perf_counter()
        picture = self.text_to_image(conditioning.encoded.text, request.seed, params)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds = time.perf_counter() - started
        # Lets the caller cancel before the longer part begins.
        on_step(PICTURE_STAGE, params.steps, params.steps)
        asset = self.backend.generate(replace(request, prompt=ImagePrompt(picture, picture.tobytes())), on_step)
        return replace(asset, seconds={PICTURE_STAGE: seconds, **asset.seconds})
