"""Prompt in, gaussian splats out. Knows nothing of Bittensor, tasks or validators."""

from pipeline.backends.backend import Backend, load_backend, warm_up
from pipeline.compute import ComputeConfig, choose_compute
from pipeline.conditioning.prompt import (
    MAX_IMAGE_BYTES,
    ImagePrompt,
    ImagesPrompt,
    Prompt,
    TextPrompt,
    decode_base64_image,
    decode_image_prompt,
    parse_text_prompt,
)
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
from pipeline.generator import CheckpointSource, Generator
from pipeline.params import SamplerParams, TextToImageParams, VoxelLimit
from pipeline.request import STAGES, Asset, OnStep, Request
from pipeline.scoring.best_of_n import BestOfN, BestResult, Candidate, Scorer
from pipeline.scoring.quality import QualityScorer
from pipeline.scoring.similarity import Reference, Similarity, likeness
from pipeline.splats import Splats, Statistics, compute_statistics, invalid_reason, normalise, ply, spz, upright
from pipeline.splats.container import Container, PackedSplats, ResultFormat
from pipeline.weights.locate import SCORER as DEFAULT_SCORER
from pipeline.weights.locate import is_embedded

__all__ = [
    "DEFAULT_SCORER",
    "MAX_IMAGE_BYTES",
    "STAGES",
    "Asset",
    "Backend",
    "BackgroundModelError",
    "BestOfN",
    "BestResult",
    "Cancelled",
    "Candidate",
    "CheckpointError",
    "CheckpointSource",
    "ComputeConfig",
    "Container",
    "EmptyForeground",
    "EmptyStructure",
    "FormatError",
    "Generator",
    "ImagePrompt",
    "ImagesPrompt",
    "NonFiniteOutput",
    "OnStep",
    "OutOfMemory",
    "PackedSplats",
    "PipelineError",
    "Prompt",
    "PromptError",
    "QualityScorer",
    "Reference",
    "Request",
    "ResultFormat",
    "SamplerParams",
    "Scorer",
    "Similarity",
    "Splats",
    "Statistics",
    "TextPrompt",
    "TextToImageError",
    "TextToImageParams",
    "TooManyVoxels",
    "UnsupportedPrompt",
    "VoxelLimit",
    "choose_compute",
    "compute_statistics",
    "decode_base64_image",
    "decode_image_prompt",
    "invalid_reason",
    "is_embedded",
    "likeness",
    "load_backend",
    "normalise",
    "parse_text_prompt",
    "ply",
    "spz",
    "upright",
    "warm_up",
]
