"""Errors of the pipeline, as a small tree."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.conditioning.mattings import Matting


class PipelineError(Exception):
    """Base of every expected failure of the pipeline; the message says what to do."""


class PromptError(PipelineError):
    """A prompt that cannot be used: undecodable, too large or empty."""


class NoCutOut(PromptError):  # noqa: N818 - the names operators see in the log
    """An image of which no object can be cut out; `mattings` are what background removal made of it, if anything."""

    def __init__(self, message: str, mattings: "tuple[Matting, ...]" = ()) -> None:
        """Take the message, and what the models made of the image."""
        super().__init__(message)
        self.mattings = mattings


class EmptyForeground(NoCutOut):
    """An image without a visible object, before or after background removal."""


class FullForeground(NoCutOut):
    """An image of which background removal leaves everything: its ground would become the object."""


class UnsupportedPrompt(PromptError):  # noqa: N818
    """A prompt of a type for which no checkpoint is loaded."""


class EmptyStructure(PipelineError):  # noqa: N818
    """A structure without any occupied voxel."""


class TooManyVoxels(PipelineError):  # noqa: N818
    """A structure with more occupied voxels than the request allows."""


class NonFiniteOutput(PipelineError):  # noqa: N818
    """NaN or infinity in the output of a network."""


class OutOfMemory(PipelineError):  # noqa: N818
    """GPU memory that does not suffice, for an object not even with half the voxels; the message names the work."""


class FormatError(PipelineError):
    """Bytes that are no readable PLY or SPZ, or splats that the format cannot hold."""


class CheckpointError(PipelineError):
    """A checkpoint that is missing, damaged or of another architecture; the message names file and tensor."""


class BackgroundModelError(PipelineError):
    """A background-removal model, or its runtime, that is missing or damaged."""


class DownloadError(PipelineError):
    """A download that failed; `retry` says whether another attempt may succeed."""

    def __init__(self, message: str, *, retry: bool = False) -> None:
        """Take the message, and whether another attempt may succeed."""
        super().__init__(message)
        self.retry = retry


class TextToImageError(PipelineError):
    """A missing diffusers package, or settings or a sentence that it failed on."""


class Cancelled(PipelineError):  # noqa: N818
    """Work that the caller asked to stop."""


class WorkerLost(PipelineError):  # noqa: N818
    """A worker that ended with the candidate that it was making, or workers of which none is left."""
