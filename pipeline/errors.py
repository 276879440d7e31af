"""What can go wrong in the pipeline, as a small tree.

PipelineError
├── PromptError            what a stranger sent cannot be used
│   ├── EmptyForeground    the image shows no object
│   └── UnsupportedPrompt  no checkpoint for prompts of this type is loaded
├── EmptyStructure         the structure sampler left no voxel occupied
├── TooManyVoxels          more voxels are occupied than the request allows
├── NonFiniteOutput        a network returned NaN or infinity
├── OutOfMemory            the GPU's memory did not suffice, also not for half the voxels
├── FormatError            bytes are not a readable PLY or SPZ, or splats cannot be written as one
├── CheckpointError        a checkpoint is missing, damaged or of another architecture
├── TextToImageError       diffusers is missing, or failed on a sentence
├── BackgroundModelError   the background-removal model cannot be loaded
└── Cancelled              the caller gave the work up
"""


class PipelineError(Exception):
    """Base of every expected failure of the pipeline; the message says what to do."""


class PromptError(PipelineError):
    """A prompt that cannot be used: undecodable, too large, empty."""


class EmptyForeground(PromptError):  # noqa: N818 - the names operators see in the log
    """An image without a visible object, before or after background removal."""


class UnsupportedPrompt(PromptError):  # noqa: N818
    """A sentence or a picture, and no checkpoint for prompts of its type is loaded."""


class EmptyStructure(PipelineError):  # noqa: N818
    """The structure decoder marked no voxel as occupied."""


class TooManyVoxels(PipelineError):  # noqa: N818
    """More voxels are occupied than the request allows."""


class NonFiniteOutput(PipelineError):  # noqa: N818
    """A network returned NaN or infinity."""


class OutOfMemory(PipelineError):  # noqa: N818
    """The GPU's memory did not suffice; says what was asked for."""


class FormatError(PipelineError):
    """Bytes that are no readable PLY or SPZ, or splats that the format cannot hold."""


class CheckpointError(PipelineError):
    """A checkpoint that is missing, damaged or of another architecture; names file and tensor."""


class BackgroundModelError(PipelineError):
    """The background-removal model or its runtime is missing or damaged."""


class TextToImageError(PipelineError):
    """The package diffusers is missing, or what it was asked for it cannot do."""


class Cancelled(PipelineError):  # noqa: N818
    """The caller asked for the work to stop."""
