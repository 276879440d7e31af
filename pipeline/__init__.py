"""Prompt in, gaussian splats out. Knows nothing of Bittensor, tasks or validators."""

from pipeline.devices import Compute, choose
from pipeline.errors import (
    BackgroundModelError,
    Cancelled,
    CheckpointError,
    EmptyForeground,
    EmptyStructure,
    FormatError,
    NonFiniteOutput,
    PipelineError,
    PromptError,
    TooManyVoxels,
)
from pipeline.generator import STAGES, Asset, Generator, OnStep, Request, VoxelLimit
from pipeline.prompt import ImagePrompt, Prompt, TextPrompt, image_prompt, image_prompt_from_base64, text_prompt
from pipeline.sampling import SamplerParams
from pipeline.splats import Splats, normalise, validity
from pipeline.weights import EMBEDDED as EMBEDDED_CHECKPOINT

__all__ = [
    "EMBEDDED_CHECKPOINT",
    "STAGES",
    "Asset",
    "BackgroundModelError",
    "Cancelled",
    "CheckpointError",
    "Compute",
    "EmptyForeground",
    "EmptyStructure",
    "FormatError",
    "Generator",
    "ImagePrompt",
    "NonFiniteOutput",
    "OnStep",
    "PipelineError",
    "Prompt",
    "PromptError",
    "Request",
    "SamplerParams",
    "Splats",
    "TextPrompt",
    "TooManyVoxels",
    "VoxelLimit",
    "choose",
    "image_prompt",
    "image_prompt_from_base64",
    "normalise",
    "text_prompt",
    "validity",
]
