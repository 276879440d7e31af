"""The messages: subnet 17's PullTask and SubmitResults as validators spoke them in late 2025, and our own Generate.

Names, fields and defaults are the wire's; the HTTP route of a synapse is its class's name.
"""

from __future__ import annotations

import base64
from typing import ClassVar, Literal

import bittensor as bt
from pydantic import BaseModel, Field

from pipeline import MAX_IMAGE_BYTES, ImagePrompt, PromptError, decode_image_prompt

# What a miner declares by signing a submission; part of the signed text, so byte for byte as the subnet has it.
LICENSE_DECLARATION = (
    "I, as a miner on SN17, have obtained all licenses, rights and consents required to use, "
    "reproduce, modify, display, distribute and make available my submitted results to this subnet "
    "and its end users"
)


class TextTask(BaseModel):
    """Generate from a sentence."""

    id: str = Field(default="", description="The validator's name for the task; opaque.")
    type: Literal["text"] = "text"
    prompt: str = Field(default="", description="The sentence.")


class ImageTask(BaseModel):
    """Generate from an image."""

    id: str = Field(default="", description="The validator's name for the task; opaque.")
    type: Literal["image"] = "image"
    prompt: str = Field(default="", description="The image file's bytes in base64.")


ProtocolTask = TextTask | ImageTask


class PullTask(bt.Synapse):
    """Miner to validator: give me a task."""

    task: ProtocolTask | None = Field(default=None, description="The task, or None while on cooldown.")
    validation_threshold: float = Field(default=0.6, description="The score from which a result is accepted.")
    throttle_period: int = Field(default=0, description="Seconds after assignment in which submitting costs nothing.")
    cooldown_until: int = Field(default=0, description="Unix time in seconds before which pulling is a violation.")
    cooldown_violations: int = Field(default=0, description="Pulls made during a cooldown.")


class Feedback(BaseModel):
    """What the validator made of a submission; a failing score is not told, it reads 0.0."""

    validation_failed: bool = Field(default=False, description="The validator could not validate: no fault of ours.")
    task_fidelity_score: float = Field(default=0.0, description="Score of this result; 0.0 unless accepted.")
    average_fidelity_score: float = Field(default=0.0, description="Moving average of accepted scores.")
    generations_within_the_window: int = Field(default=0, description="Accepted results of the last four hours.")
    current_duel_rating: float = Field(default=0.0, description="Glicko-2 rating.")
    current_miner_reward: float = Field(default=0.0, description="Accepted results times rating.")


class SubmitResults(bt.Synapse):
    """Miner to validator: here is the result of the task I hold."""

    task: ProtocolTask | None = Field(default=None, description="Deprecated: the task; task_id says enough.")
    task_id: str = Field(default="", description="Id of the task this answers.")
    results: str = Field(description="SPZ in base64, or an empty string to skip the task.")
    data_format: str = Field(default="ply", description="Ignored by validators.")
    data_ver: int = Field(default=0, description="Ignored by validators.")
    compression: int = Field(default=2, description="2 is the subnet's zstd SPZ, the only one validators read.")
    submit_time: int = Field(description="time.time_ns() of the submission; part of the signed text.")
    signature: str = Field(description="Base64 of the sr25519 signature over `submission_message`.")
    feedback: Feedback | None = Field(default=None, description="The validator's answer.")
    cooldown_until: int = Field(default=0, description="Unix time in seconds of the next allowed pull.")


class Generate(bt.Synapse):
    """Validator to miner: generate this now. Our own message, for validators that push."""

    required_hash_fields: ClassVar[tuple[str, ...]] = ("task_type", "prompt", "seed", "data_format")

    task_type: Literal["image", "text"] = Field(default="image", description="What the prompt is.")
    prompt: str = Field(default="", description="The sentence, or an image file's bytes in base64.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Seed of all noise; None for any.")
    data_format: Literal["spz", "ply"] = Field(default="spz", description="Format of the result.")
    results: str = Field(default="", description="The answer: SPZ or PLY in base64; empty if there is none.")
    error: str = Field(default="", description="The answer: why there is no result.")
    gaussians: int = Field(default=0, description="The answer: number of gaussians.")
    seconds: dict[str, float] = Field(default_factory=dict, description="The answer: time of each stage.")


def decode_image(text: str) -> ImagePrompt:
    """Decode an image file's base64, with or without a `data:...;base64,` head and line breaks.

    The size is checked before anything is decoded. Raises PromptError if the text is empty, not base64, or no
    acceptable image.
    """
    encoded = "".join((text.rpartition(",")[2] if text.startswith("data:") else text).split())
    if not encoded:
        raise PromptError("the prompt is empty")
    if len(encoded) > (MAX_IMAGE_BYTES + 2) // 3 * 4:
        raise PromptError(f"the image has more than {MAX_IMAGE_BYTES} bytes")
    try:
        file = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise PromptError(f"the image is not valid base64: {error}") from None
    return decode_image_prompt(file)


def submission_message(submit_time: int, prompt: str, validator_hotkey: str, miner_hotkey: str) -> str:
    """The text a submission's signature covers; prompt is the whole prompt of the task, also for images."""
    return f"{LICENSE_DECLARATION}{submit_time}{prompt}{validator_hotkey}{miner_hotkey}"


def signed_submission(
    task: ProtocolTask, results: str, submit_time: int, keypair: bt.Keypair, validator_hotkey: str
) -> SubmitResults:
    """A submission that validators accept; an empty `results` skips the task and is signed all the same."""
    message = submission_message(submit_time, task.prompt, validator_hotkey, keypair.ss58_address)
    signature = base64.b64encode(keypair.sign(message)).decode()
    return SubmitResults(task_id=task.id, results=results, submit_time=submit_time, signature=signature)
