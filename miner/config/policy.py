"""The validator policy's rules, config/blacklist.yaml, as typed values."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from miner.config.loader import Section
from miner.config.ss58 import check_address

ListName = Literal["allow", "deny_hotkeys", "deny_coldkeys"]
LIST_NAMES: tuple[ListName, ...] = get_args(ListName)

Address = Annotated[str, AfterValidator(check_address)]


class PolicyEntry(Section):
    """One hotkey, coldkey or uid, why it is listed, and until when; a time without a zone is UTC.

    A uid alone is ambiguous, since uids are recycled: `miner.policy.blacklist.resolve_uids` adds the hotkey that holds
    it.
    """

    hotkey: Address | None = None
    coldkey: Address | None = None
    uid: int | None = Field(default=None, ge=0)
    reason: str = ""
    until: datetime | None = None

    @field_validator("until")
    @classmethod
    def _in_utc(cls, until: datetime | None) -> datetime | None:
        if until is None or until.tzinfo is None:
            return until and until.replace(tzinfo=UTC)
        try:
            return until.astimezone(UTC)
        except OverflowError:
            raise ValueError("is outside of the years 1 to 9999 in UTC") from None

    @model_validator(mode="after")
    def _has_one_key(self) -> Self:
        if sum(key is not None for key in (self.hotkey, self.coldkey, self.uid)) != 1:
            raise ValueError("needs just one of hotkey, coldkey, uid")
        return self

    @property
    def key(self) -> str:
        """The hotkey, coldkey or uid that the file lists."""
        return str(self.uid) if self.uid is not None else self.hotkey or self.coldkey or ""

    @property
    def name(self) -> str:
        """The key with its kind, as the file lists it."""
        kind = "uid" if self.uid is not None else "hotkey" if self.hotkey else "coldkey"
        return f"{kind} {self.key}"

    def has_expired(self, now: datetime) -> bool:
        """Return whether the entry's time is over."""
        return self.until is not None and self.until <= now

    def __str__(self) -> str:
        """Return the reason and the end as the rest of a sentence: "" or ": rejects all, until ..."."""
        until = f"until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else ""
        return "".join(f"{mark} {part}" for mark, part in zip(":,", filter(None, (self.reason, until)), strict=False))


class PolicyRules(Section):
    """The rules of config/blacklist.yaml; `miner.policy.policy.decide` applies them."""

    allow: tuple[PolicyEntry, ...] = ()
    deny_hotkeys: tuple[PolicyEntry, ...] = ()
    deny_coldkeys: tuple[PolicyEntry, ...] = ()
    require_validator_permit: bool = True
    min_stake: float = Field(default=1000.0, ge=0)

    @field_validator(*LIST_NAMES, mode="before")
    @classmethod
    def _to_mappings(cls, value: Any, info: ValidationInfo) -> Any:
        """Turn entries that are a bare key into mappings: a text is a hotkey or a coldkey, a number a uid."""
        # A list whose entries have all been commented out reads as None.
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            return value
        keys = {str: "coldkey" if info.field_name == "deny_coldkeys" else "hotkey", int: "uid"}
        return tuple({keys[type(entry)]: entry} if type(entry) in keys else entry for entry in value)

    @field_validator("deny_hotkeys", "deny_coldkeys")
    @classmethod
    def _has_the_right_keys(cls, entries: tuple[PolicyEntry, ...], info: ValidationInfo) -> tuple[PolicyEntry, ...]:
        are_coldkeys = {entry.coldkey is not None for entry in entries}
        if info.field_name == "deny_hotkeys" and True in are_coldkeys:
            raise ValueError("lists hotkeys and uids; a coldkey belongs into deny_coldkeys")
        if info.field_name == "deny_coldkeys" and False in are_coldkeys:
            raise ValueError("lists coldkeys; a hotkey or a uid belongs into deny_hotkeys")
        return entries

    def entries(self, list_name: ListName) -> tuple[PolicyEntry, ...]:
        """Return the entries of a list."""
        entries: tuple[PolicyEntry, ...] = getattr(self, list_name)
        return entries

    def map_lists(self, change: Callable[[tuple[PolicyEntry, ...]], tuple[PolicyEntry, ...]]) -> "PolicyRules":
        """Return the rules with `change` applied to each list."""
        return self.model_copy(update={name: change(self.entries(name)) for name in LIST_NAMES})

    def in_force(self, now: datetime) -> "PolicyRules":
        """Return the rules without the entries that have expired."""
        return self.map_lists(lambda entries: tuple(entry for entry in entries if not entry.has_expired(now)))
