"""Numbers and names in sentences."""

from collections.abc import Iterable
from difflib import get_close_matches


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 hotkey", "2 hotkeys"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def shortened(text: str, length: int) -> str:
    """Return the text on one line, cut to `length` characters with an ellipsis if it is longer."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def phase_label(name: str, config_hash: str) -> str:
    """Return a phase as tables have it: its name, and the beginning of its hash."""
    return f"{name} {config_hash[:8]}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" with the known names that are most like an unknown one, or "" if none is."""
    similar = get_close_matches(name, list(known), n=2)
    return f" (did you mean {' or '.join(similar)}?)" if similar else ""
