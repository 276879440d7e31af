"""The messages: subnet 17's PullTask and SubmitResults, as validators used them in late 2025, and our own Generate.

Names, fields and defaults are those of the wire format; the HTTP route of a synapse is the name of its class.
"""

import base64
from typing import ClassVar, Literal

import bittensor as bt
from pydantic import BaseModel, Field

# The declaration that a miner makes by signing a submission; part of the signed text, so it must match byte for byte.
LICENSE_DECLARATION = (
    "I, as a miner on SN17, have obtained all licenses, rights and consents required to use, "
    "reproduce, modify, display, distribute and make available my submitted results to this subnet "
    "and its end users"
)


class TextTask(BaseModel):
    """A task to generate from a sentence."""

    id: str = Field(default="", description="The validator's opaque id of the task.")
    type: Literal["text"] = "text"
    prompt: str = Field(default="", description="The sentence.")


class ImageTask(BaseModel):
    """A task to generate from an image."""

    id: str = Field(default="", description="The validator's opaque id of the task.")
    type: Literal["image"] = "image"
    prompt: str = Field(default="", description="The image file's bytes in base64.")


ProtocolTask = TextTask | ImageTask


class PullTask(bt.Synapse):
    """The request of a miner to a validator for a task."""

    task: ProtocolTask | None = Field(default=None, description="The task, or None while on cooldown.")
    validation_threshold: float = Field(default=0.6, description="The score from which a result is accepted.")
    throttle_period: int = Field(default=0, description="Seconds after assignment in which submitting costs nothing.")
    cooldown_until: int = Field(default=0, description="Unix time in seconds before which pulling is a violation.")
    cooldown_violations: int = Field(default=0, description="Pulls made during a cooldown.")


class Feedback(BaseModel):
    """A validator's judgement of a submission, which does not disclose failing scores."""

    validation_failed: bool = Field(default=False, description="Validation itself failed; no fault of the miner.")
    task_fidelity_score: float = Field(default=0.0, description="Score of this result; 0.0 unless it was accepted.")
    average_fidelity_score: float = Field(default=0.0, description="Moving average of accepted scores.")
    generations_within_the_window: int = Field(default=0, description="Accepted results of the last four hours.")
    current_duel_rating: float = Field(default=0.0, description="Glicko-2 rating.")
    current_miner_reward: float = Field(default=0.0, description="Accepted results times rating.")


class SubmitResults(bt.Synapse):
    """The submission of a miner to a validator: the result of the task that it holds."""

    task: ProtocolTask | None = Field(default=None, description="Deprecated in favour of task_id.")
    task_id: str = Field(default="", description="Id of the task.")
    results: str = Field(description="SPZ in base64, or an empty string to skip the task.")
    data_format: str = Field(default="ply", description="Ignored by validators.")
    data_ver: int = Field(default=0, description="Ignored by validators.")
    compression: int = Field(default=2, description="2 is SPZ with zstd, the only format that validators read.")
    submit_time: int = Field(description="time.time_ns() of the submission; part of the signed text.")
    signature: str = Field(description="Base64 of the sr25519 signature over `submission_message`.")
    feedback: Feedback | None = Field(default=None, description="The validator's answer.")
    cooldown_until: int = Field(default=0, description="Unix time in seconds of the next allowed pull.")


class Generate(bt.Synapse):
    """The request of a validator to a miner to generate at once: our own message, for validators that push tasks."""

    required_hash_fields: ClassVar[tuple[str, ...]] = ("task_type", "prompt", "seed", "data_format")

    task_type: Literal["image", "text"] = Field(default="image", description="Kind of the prompt.")
    prompt: str = Field(default="", description="The sentence, or an image file's bytes in base64.")
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="Seed of all noise; None for a random one.")
    data_format: Literal["spz", "ply"] = Field(default="spz", description="Format of the result.")
    results: str = Field(default="", description="The answer: SPZ or PLY in base64, empty if there is no result.")
    error: str = Field(default="", description="The answer: the reason if there is no result.")
    gaussians: int = Field(default=0, description="The answer: number of gaussians.")
    seconds: dict[str, float] = Field(default_factory=dict, description="The answer: seconds of each stage.")


def submission_message(submit_time: int, prompt: str, validator_hotkey: str, miner_hotkey: str) -> str:
    """Return the text that a submission's signature covers; `prompt` is that of the task, in full also for images."""
    return f"{LICENSE_DECLARATION}{submit_time}{prompt}{validator_hotkey}{miner_hotkey}"


def sign_submission(
    task: ProtocolTask, results: str, submit_time: int, keypair: bt.Keypair, validator_hotkey: str
) -> SubmitResults:
    """Return a signed submission; empty `results` skip the task."""
    message = submission_message(submit_time, task.prompt, validator_hotkey, keypair.ss58_address)
    signature = base64.b64encode(keypair.sign(message)).decode()
    return SubmitResults(task_id=task.id, results=results, submit_time=submit_time, signature=signature)
