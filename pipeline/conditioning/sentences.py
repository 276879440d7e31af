"""Templates that sentences are put into, and a word about those that an encoder cuts."""

import logging

log = logging.getLogger(__name__)

PLACE = "{prompt}"
# Those that CLIP's text encoders read, the special ones included.
CLIP_TOKENS = 77


def is_template(template: str) -> bool:
    """Return whether a text has one place for a sentence, and no other braces."""
    rest = template.split(PLACE)
    return len(rest) == 2 and not any(brace in part for part in rest for brace in "{}")


class CutNotice:
    """Says once in the log that an encoder reads no more than so many tokens of a sentence."""

    def __init__(self, encoder: str, limit: int) -> None:
        """Take the encoder's name for people, and the tokens that it reads, its special ones included."""
        self._encoder, self._limit = encoder, limit
        self._is_told = False

    def check(self, tokens: int) -> None:
        """Warn if a sentence has more tokens, special ones included, unless that was said before."""
        if tokens > self._limit and not self._is_told:
            self._is_told = True
            log.warning(
                "A sentence of %d tokens is cut: %s reads %d, and what comes after them has no effect; "
                "this is said once, and goes for all longer ones",
                tokens, self._encoder, self._limit,
            )  # fmt: skip
