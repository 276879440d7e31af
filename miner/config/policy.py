"""What config/blacklist.yaml may say, typed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class PolicyEntry(BaseModel):
    """One hotkey, coldkey or uid, why it is listed, and until when; a time without a zone is UTC.

    A uid says nothing by itself, since uids are recycled: `miner.policy.blacklist.resolve_uids` adds the hotkey that holds it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hotkey: str | None = Field(default=None, min_length=1)
    coldkey: str | None = Field(default=None, min_length=1)
    uid: int | None = Field(default=None, ge=0)
    reason: str = ""
    until: datetime | None = None

    @field_validator("until")
    @classmethod
    def _aware(cls, until: datetime | None) -> datetime | None:
        return until.replace(tzinfo=UTC) if until is not None and until.tzinfo is None else until

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if sum(key is not None for key in (self.hotkey, self.coldkey, self.uid)) != 1:
            raise ValueError("needs just one of hotkey, coldkey, uid")
        return self

    @property
    def name(self) -> str:
        """What it lists, as it stands in the file."""
        if self.uid is not None:
            return f"uid {self.uid}"
        return f"hotkey {self.hotkey}" if self.hotkey else f"coldkey {self.coldkey}"

    def __str__(self) -> str:
        """The reason and the end, to be put after what the entry does: "" or ": rejects all, until ..."."""
        until = f"until {self.until.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if self.until else ""
        return "".join(f"{mark} {part}" for mark, part in zip(":,", filter(None, (self.reason, until)), strict=False))


def _entries(value: Any, plain: str) -> Any:
    # A list whose entries have all been commented out reads as None.
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        return value
    kinds = {str: plain, int: "uid"}
    return tuple({kinds[type(entry)]: entry} if type(entry) in kinds else entry for entry in value)


class PolicyRules(BaseModel):
    """config/blacklist.yaml; `miner.policy.policy.decide` says what it means."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[PolicyEntry, ...] = ()
    deny_hotkeys: tuple[PolicyEntry, ...] = ()
    deny_coldkeys: tuple[PolicyEntry, ...] = ()
    require_validator_permit: bool = True
    min_stake: float = Field(default=1000.0, ge=0)

    @field_validator("allow", "deny_hotkeys", mode="before")
    @classmethod
    def _plain_hotkeys(cls, value: Any) -> Any:
        return _entries(value, "hotkey")

    @field_validator("deny_coldkeys", mode="before")
    @classmethod
    def _plain_coldkeys(cls, value: Any) -> Any:
        return _entries(value, "coldkey")

    @field_validator("deny_hotkeys")
    @classmethod
    def _no_coldkeys(cls, entries: tuple[PolicyEntry, ...]) -> tuple[PolicyEntry, ...]:
        if any(entry.coldkey is not None for entry in entries):
            raise ValueError("lists hotkeys and uids; a coldkey belongs into deny_coldkeys")
        return entries

    @field_validator("deny_coldkeys")
    @classmethod
    def _only_coldkeys(cls, entries: tuple[PolicyEntry, ...]) -> tuple[PolicyEntry, ...]:
        if any(entry.coldkey is None for entry in entries):
            raise ValueError("lists coldkeys; a hotkey or a uid belongs into deny_hotkeys")
        return entries

    def map_lists(self, change: Callable[[tuple[PolicyEntry, ...]], tuple[PolicyEntry, ...]]) -> PolicyRules:
        """With `change` applied to each list."""
        lists = {name: change(getattr(self, name)) for name in ("allow", "deny_hotkeys", "deny_coldkeys")}
        return self.model_copy(update=lists)

    def in_force(self, now: datetime) -> PolicyRules:
        """Without the entries whose time is over."""
        return self.map_lists(lambda entries: tuple(e for e in entries if e.until is None or now < e.until))
