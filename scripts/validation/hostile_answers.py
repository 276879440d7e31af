"""Pieces of JSON, and changes of whole answers, that no honest validator sends."""

import json
import random

# Each is a fragment of JSON as it stands on the wire.
HOSTILE = (
    *("null", "true", "false", "0", "-0.0", "1", "-1", "0.5", "1e308", "-1e308", "1e400", "-1e400"),
    *("NaN", "Infinity", "-Infinity", "9223372036854775808", "-9223372036854775809", "1" + "0" * 400, "1" + "0" * 5000),
    *('""', '" "', '"0"', '"NaN"', '"\\ud800"', '"\\u0000"', '"\\u001b[31m"', '"Score=1.00\\n"', '"\\u202e"'),
    *(json.dumps("x" * 129), json.dumps("x" * 100_000), json.dumps("💥" * 300), '"2026-01-01T00:00:00"'),
    *("[]", "{}", "[null]", '{"id": null}', '{"type": "text"}', "[" * 500 + "]" * 500, "[" * 200_000, '{"a": ' * 9),
    *('{"id": "\\ud800", "type": "text", "prompt": "\\ud800"}', '{"id": "i", "type": "video", "prompt": "p"}'),
)


def mutate(body: bytes, rng: random.Random) -> bytes:
    """Change, repeat, drop or insert some bytes, or whole fragments of JSON."""
    content = bytearray(body)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.randint(0, 12))
        pieces = [b"", bytes([rng.randrange(256)]), content[at:end] * 2, rng.choice(HOSTILE[:-6]).encode()]
        content[at:end] = rng.choice([*pieces, b'"', b"}", b"\\u"])
    return bytes(content)
