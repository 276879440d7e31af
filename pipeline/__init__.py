"""Prompt in, gaussian splats out. Knows nothing of Bittensor, tasks or validators."""

from pipeline.backends import Backend, load_backend, warm_up
from pipeline.candidates import Best, Candidate, Scorer, Search
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
    TextToImageError,
    TooManyVoxels,
    UnsupportedPrompt,
)
from pipeline.generator import Generator, Source
from pipeline.likeness import Likeness, Reference, likeness
from pipeline.prompt import (
    ImagePrompt,
    ImagesPrompt,
    Prompt,
    TextPrompt,
    image_prompt,
    image_prompt_from_base64,
    text_prompt,
)
from pipeline.request import STAGES, Asset, OnStep, Request, TextToImageParams, VoxelLimit
from pipeline.sampling import SamplerParams
from pipeline.scoring import QualityScorer
from pipeline.splats import Splats, normalise, upright, validity
from pipeline.weights import SCORER as DEFAULT_SCORER
from pipeline.weights import is_embedded

__all__ = [
    "DEFAULT_SCORER",
    "STAGES",
    "Asset",
    "Backend",
    "BackgroundModelError",
    "Best",
    "Cancelled",
    "Candidate",
    "CheckpointError",
    "Compute",
    "EmptyForeground",
    "EmptyStructure",
    "FormatError",
    "Generator",
    "ImagePrompt",
    "ImagesPrompt",
    "Likeness",
    "NonFiniteOutput",
    "OnStep",
    "OutOfMemory",
    "PipelineError",
    "Prompt",
    "PromptError",
    "QualityScorer",
    "Reference",
    "Request",
    "SamplerParams",
    "Scorer",
    "Search",
    "Source",
    "Splats",
    "TextPrompt",
    "TextToImageError",
    "TextToImageParams",
    "TooManyVoxels",
    "UnsupportedPrompt",
    "VoxelLimit",
    "choose",
    "image_prompt",
    "image_prompt_from_base64",
    "is_embedded",
    "likeness",
    "load_backend",
    "normalise",
    "text_prompt",
    "upright",
    "validity",
    "warm_up",
]
