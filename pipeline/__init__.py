"""Generation of gaussian splats from sentences and images, independent of Bittensor, tasks and validators.

Exported is what others use, the types in the signatures of that, and for whoever catches them all errors of
pipeline.errors.
"""

from pipeline.backends.loading import load_backend
from pipeline.compute import ComputeConfig, choose_compute, choose_drawing_device
from pipeline.conditioning.decoder import DecoderProcess, DecodingLimits
from pipeline.conditioning.mattings import CutOutRecord, Matting
from pipeline.conditioning.preprocessing import PreparedPicture
from pipeline.conditioning.prompt import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_LENGTH,
    Combine,
    ImagePrompt,
    ImagesPrompt,
    Prompt,
    TextPrompt,
    decode_image_prompt,
    parse_text_prompt,
    with_cut_out,
    with_template,
)
from pipeline.conditioning.sentences import PLACE as SENTENCE_PLACE
from pipeline.conditioning.sentences import is_template
from pipeline.errors import (
    BackgroundModelError,
    Cancelled,
    CheckpointError,
    DownloadError,
    EmptyForeground,
    EmptyStructure,
    FormatError,
    FullForeground,
    NoCutOut,
    NonFiniteOutput,
    OutOfMemory,
    PipelineError,
    PromptError,
    TextToImageError,
    TooManyVoxels,
    UnsupportedPrompt,
    WorkerLost,
)
from pipeline.generator import CheckpointSource, Generator
from pipeline.params import CutOutParams, SamplerParams, TextToImageParams, VoxelLimit
from pipeline.rendering.cameras import orbit
from pipeline.rendering.contact_sheet import draw_contact_sheet, draw_views
from pipeline.rendering.rasterizer import render
from pipeline.rendering.tiles import tile
from pipeline.request import STAGES, Asset, Backend, Conditioning, OnStep, Request
from pipeline.scoring.best_of_n import BestOfN, BestResult, run_best_of_n
from pipeline.scoring.candidate import (
    Attempt,
    Candidate,
    CandidateMaker,
    FinishedCandidate,
    GenerationJob,
    PackedAsset,
    PackSampled,
    Stage,
)
from pipeline.scoring.score import PARTS, Part, Score
from pipeline.scoring.scorer import ScoredViews, Scorer, ScorerSources, ScoreSplats, ValidatorScorer
from pipeline.scoring.similarity import ReferenceViews, Similarity, measure_similarity
from pipeline.scoring.views import render_validator_views
from pipeline.splats import (
    Splats,
    Statistics,
    compute_statistics,
    count_non_finite,
    count_zero_rotations,
    drop_invalid,
    flip_up_axis,
    invalid_reason,
    normalise,
    ply,
    spz,
)
from pipeline.splats.container import UP_AXES, Container, PackedSplats, ResultFormat, UpAxis, recognise_format
from pipeline.splats.splats import SH_COEFFICIENTS
from pipeline.trellis.voxel_splats import voxel_splats
from pipeline.weights.background_models import BACKGROUND_MODELS
from pipeline.weights.check import check_weights
from pipeline.weights.download import download_weights, has_fixed_place
from pipeline.weights.locate import SCORER as DEFAULT_SCORER
from pipeline.weights.locate import HubReference, is_embedded
from pipeline.weights.scorers import IMAGE_ALIGNMENT as DEFAULT_IMAGE_ALIGNMENT
from pipeline.weights.scorers import LPIPS as DEFAULT_LPIPS
from pipeline.weights.scorers import TEXT_ALIGNMENT as DEFAULT_TEXT_ALIGNMENT

__all__ = [
    "BACKGROUND_MODELS", "DEFAULT_IMAGE_ALIGNMENT", "DEFAULT_LPIPS", "DEFAULT_SCORER", "DEFAULT_TEXT_ALIGNMENT",
    "MAX_IMAGE_BYTES", "MAX_TEXT_LENGTH", "PARTS", "SENTENCE_PLACE", "SH_COEFFICIENTS", "STAGES", "UP_AXES", "Asset",
    "Attempt", "Backend", "BackgroundModelError", "BestOfN", "BestResult", "Cancelled", "Candidate", "CandidateMaker",
    "CheckpointError", "CheckpointSource", "Combine", "ComputeConfig", "Conditioning", "Container", "CutOutParams",
    "CutOutRecord", "DecoderProcess", "DecodingLimits", "DownloadError", "EmptyForeground", "EmptyStructure",
    "FinishedCandidate", "FormatError", "FullForeground", "GenerationJob", "Generator", "HubReference", "ImagePrompt",
    "ImagesPrompt", "Matting", "NoCutOut", "NonFiniteOutput", "OnStep", "OutOfMemory", "PackSampled", "PackedAsset",
    "PackedSplats", "Part", "PipelineError", "PreparedPicture", "Prompt", "PromptError", "ReferenceViews", "Request",
    "ResultFormat", "SamplerParams", "Score", "ScoreSplats", "ScoredViews", "Scorer", "ScorerSources", "Similarity",
    "Splats", "Stage", "Statistics", "TextPrompt", "TextToImageError", "TextToImageParams", "TooManyVoxels",
    "UnsupportedPrompt", "UpAxis", "ValidatorScorer", "VoxelLimit", "WorkerLost", "check_weights", "choose_compute",
    "choose_drawing_device", "compute_statistics", "count_non_finite", "count_zero_rotations", "decode_image_prompt",
    "download_weights", "draw_contact_sheet", "draw_views", "drop_invalid", "flip_up_axis", "has_fixed_place",
    "invalid_reason", "is_embedded", "is_template", "load_backend", "measure_similarity", "normalise", "orbit",
    "parse_text_prompt", "ply", "recognise_format", "render", "render_validator_views", "run_best_of_n", "spz", "tile",
    "voxel_splats", "with_cut_out", "with_template",
]  # fmt: skip
