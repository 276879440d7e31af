"""Prompt in, gaussian splats out. Knows nothing of Bittensor, tasks or validators."""

from pipeline.backends import Backend, load_backend, warm_up
from pipeline.devices import Compute, choose
from pipeline.errors import (
    BackgroundModelError,
    Cancelled,
    CheckpointError,
    EmptyForeground,
    EmptyStructure,
    FormatError,
    NonFiniteOutput,
    OutOfMemory,
    PipelineError,
    PromptError,
    TooManyVoxels,
    UnsupportedPrompt,
)
from pipeline.generator import Generator, Source
from pipeline.prompt import (
    ImagePrompt,
    ImagesPrompt,
    Prompt,
    TextPrompt,
    image_prompt,
    image_prompt_from_base64,
    text_prompt,
)
from pipeline.request import STAGES, Asset, OnStep, Request, VoxelLimit
from pipeline.sampling import SamplerParams
from pipeline.splats import Splats, normalise, upright, validity
from pipeline.weights import EMBEDDED as EMBEDDED_CHECKPOINT

__all__ = [
    "EMBEDDED_CHECKPOINT",
    "STAGES",
    "Asset",
    "Backend",
    "BackgroundModelError",
    "Cancelled",
    "CheckpointError",
    "Compute",
    "EmptyForeground",
    "EmptyStructure",
    "FormatError",
    "Generator",
    "ImagePrompt",
    "ImagesPrompt",
    "NonFiniteOutput",
    "OnStep",
    "OutOfMemory",
    "PipelineError",
    "Prompt",
    "PromptError",
    "Request",
    "SamplerParams",
    "Source",
    "Splats",
    "TextPrompt",
    "TooManyVoxels",
    "UnsupportedPrompt",
    "VoxelLimit",
    "choose",
    "image_prompt",
    "image_prompt_from_base64",
    "load_backend",
    "normalise",
    "text_prompt",
    "upright",
    "validity",
    "warm_up",
]
