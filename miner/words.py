"""Numbers in sentences."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 hotkey", "2 hotkeys"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
