"""Sentences without a text checkpoint: a diffusers model draws a picture, and an image backend makes the object.

diffusers is an optional dependency (the extra text-to-image) that is imported only when a model is loaded.
"""

import importlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.backends.diffusers_networks import find_variant, load_networks
from pipeline.compute import ComputeConfig
from pipeline.conditioning.prompt import ImagePrompt, Prompt, TextPrompt
from pipeline.conditioning.sentences import CutNotice
from pipeline.errors import (
    CheckpointError,
    NonFiniteOutput,
    OutOfMemory,
    PromptError,
    TextToImageError,
)
from pipeline.generator import generate_first
from pipeline.params import TextToImageParams
from pipeline.request import (
    BACKGROUND_STAGE,
    PICTURE_STAGE,
    Asset,
    Backend,
    Conditioning,
    OnStep,
    Request,
    ignore_steps,
)
from pipeline.weights.files import MODEL_INDEX, check_model
from pipeline.weights.hub_cache import cure
from pipeline.weights.locate import locate

_NO_LIMIT = 1_000_000
# Between the drawings of one sentence; not that between candidates, whose first drawing is of their own seed: other
# devices draw for other candidates, and no two of them draw the same.
_STRIDE = 2_246_822_519
_SEEDS = 2**31


@dataclass(frozen=True, eq=False)
class TextToImage:
    """A text-to-image model: any pipeline that diffusers' AutoPipelineForText2Image knows; one call at a time.

    notices: its tokenizers, and what tells of sentences that they cut.
    """

    pipe: Any
    notices: tuple[tuple[Any, CutNotice], ...] = ()

    @staticmethod
    def load(reference: str, compute: ComputeConfig) -> "TextToImage":
        """Load a model from a directory or, as "org/name[@revision]", from the local cache; safetensors only.

        Raises TextToImageError if diffusers or transformers is missing, CheckpointError if the model is missing or does
        not fit.
        """
        try:
            diffusers = importlib.import_module("diffusers")
            # The library of the models' text encoders.
            transformers_logging = importlib.import_module("transformers.utils.logging")
        except ImportError as error:
            raise TextToImageError(
                f"text_to_image needs the packages diffusers and transformers ({error}): "
                "pip install 'sn17-miner[text-to-image]'"
            ) from None
        directory = locate(reference, MODEL_INDEX)
        check_model(directory)
        # float16 overflows in some of these models' decoders.
        dtype = torch.bfloat16 if compute.device.type == "cuda" else torch.float32
        # Their warnings recommend to train a network that is refused below.
        for logging in (diffusers.utils.logging, transformers_logging):
            logging.disable_progress_bar()
            logging.set_verbosity_error()
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
            return TextToImage(pipe.to(compute.device), tuple(_notices(pipe)))
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
        for tokenizer, notice in self.notices:
            notice.check(len(tokenizer(sentence, verbose=False)["input_ids"]))
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


def _notices(pipe: Any) -> Iterator[tuple[Any, CutNotice]]:
    """Yield the tokenizers of a pipeline whose encoders read a number of tokens."""
    for name, component in sorted(getattr(pipe, "components", {}).items()):
        limit = getattr(component, "model_max_length", None) if name.startswith("tokenizer") else None
        # Tokenizers without a limit have a number of thirty digits.
        if limit is not None and limit < _NO_LIMIT:
            yield component, CutNotice(f"the text-to-image model's {name}", limit)


@dataclass(eq=False)
class _Sentence:
    """The conditioning of a sentence: its drawings as an image backend encoded them, the best matte first.

    They are drawn for the first object; each object takes the next one in turn.
    """

    prompt: TextPrompt
    drawings: list[Conditioning[Any]] = field(default_factory=list)
    taken: int = 0

    def take(self) -> Conditioning[Any]:
        self.taken += 1
        return self.drawings[(self.taken - 1) % len(self.drawings)]


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
        return Conditioning(_Sentence(prompt), {}) if isinstance(prompt, TextPrompt) else self.backend.encode(prompt)

    def sample(self, conditioning: Conditioning[Any], request: Request, on_step: OnStep = ignore_steps) -> Asset:
        """Generate one object, drawing a sentence first; its asset's seconds then include all stages of the picture.

        Raises what the image backend and TextToImage raise.
        """
        sentence = conditioning.encoded
        if not isinstance(sentence, _Sentence):
            return self.backend.sample(conditioning, request, on_step)
        seconds: dict[str, float] = {}
        if request.text_to_image_params.drawings == 1:
            prompt = self._draw(sentence.prompt, request.seed, request.text_to_image_params, seconds)
            drawn = self.backend.encode(prompt)
            seconds.update(drawn.seconds)
        else:
            if not sentence.drawings:
                sentence.drawings += self._draw_several(sentence.prompt, request, seconds)
            drawn = sentence.take()
        # Lets the caller cancel before the longer part begins.
        steps = request.text_to_image_params.steps
        on_step(PICTURE_STAGE, steps, steps)
        asset = self.backend.sample(drawn, request, on_step).with_added_seconds(seconds)
        return replace(asset, seconds={PICTURE_STAGE: seconds.get(PICTURE_STAGE, 0.0), **asset.seconds})

    def _draw(self, prompt: TextPrompt, seed: int, params: TextToImageParams, seconds: dict[str, float]) -> ImagePrompt:
        """Draw a sentence, and add the time to the seconds of PICTURE_STAGE."""
        started = time.perf_counter()
        picture = self.text_to_image(prompt.filled, seed, params)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        seconds[PICTURE_STAGE] = seconds.get(PICTURE_STAGE, 0.0) + time.perf_counter() - started
        return ImagePrompt(picture, picture.tobytes(), params.cut_out)

    def _draw_several(self, prompt: TextPrompt, request: Request, seconds: dict[str, float]) -> list[Conditioning[Any]]:
        """Return the drawings of a sentence that can be cut out, encoded, the best matte first.

        The time of all of them is added to `seconds`. Raises the PromptError of the first if there is none, and what
        TextToImage raises.
        """
        params = request.text_to_image_params
        encoded: list[Conditioning[Any]] = []
        errors: list[PromptError] = []
        for index in range(params.drawings):
            drawing = self._draw(prompt, drawing_seed(request.seed, index), params, seconds)
            started = time.perf_counter()
            try:
                encoded.append(self.backend.encode(drawing))
                taken = encoded[-1].seconds
            except PromptError as error:
                errors.append(error)
                taken = {BACKGROUND_STAGE: time.perf_counter() - started}
            for stage, value in taken.items():
                seconds[stage] = seconds.get(stage, 0.0) + value
        if not encoded:
            raise errors[0]
        # Stable, so that equals stay in the order in which they were drawn.
        return sorted(encoded, key=_expected_iou, reverse=True)


def drawing_seed(seed: int, index: int) -> int:
    """Return the seed of drawing `index`, from 0, for a candidate; the first is the candidate's own."""
    return (seed + index * _STRIDE) % _SEEDS if index else seed


def _expected_iou(conditioning: Conditioning[Any]) -> float:
    return sum(picture.cut_out.expected_iou for picture in conditioning.pictures)
