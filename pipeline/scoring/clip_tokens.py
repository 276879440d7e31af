"""CLIP's tokens of a sentence, as open_clip's own tokenizer makes them with the published vocabulary."""

import html
from pathlib import Path

import torch
from torch import Tensor

from pipeline.conditioning.sentences import CLIP_TOKENS, CutNotice
from pipeline.encoders.vocabulary import END, END_OF_WORD, START, build_tokenizer
from pipeline.errors import CheckpointError

# The names by which open_clip knows the two special tokens in a sentence.
_SPECIAL = {"<start_of_text>": START, "<end_of_text>": END}
_PIECES = "|".join([*_SPECIAL, r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"])


class ClipTokenizer:
    """Byte-pair encoding of a sentence to 77 token ids: start, the sentence, end, zeros.

    end: the id of the end token, which is the largest.
    """

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        """Take the ids of tokens, and the pairs to join, the most important first.

        Raises CheckpointError if a package is missing, KeyError if a token is, ValueError if the end token has not the
        largest id, and whatever `tokenizers` raises.
        """
        # Imported only when needed, because they are optional dependencies.
        try:
            import ftfy
            import regex
        except ImportError as error:
            message = f"alignment with sentences needs {error.name}: pip install 'sn17-miner[score]'"
            raise CheckpointError(message) from None
        from tokenizers import models, pre_tokenizers

        self._fix = ftfy.fix_text
        self._notice = CutNotice("the scorer's part alignment", CLIP_TOKENS)
        # Not the expressions of tokenizers, which know another version of Unicode and fold its cases otherwise.
        self._pieces = regex.compile(_PIECES, regex.IGNORECASE)
        self._bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        self._model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD)
        self._special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
        self._start, self.end = vocabulary[START], vocabulary[END]
        endings = ("", END_OF_WORD)
        if missing := {a + b for a in self._bytes.alphabet() for b in endings} - vocabulary.keys():
            raise KeyError(min(missing))
        if self.end != max(vocabulary.values()):
            raise ValueError(f"{END} has the id {self.end}, which is not the largest")

    @staticmethod
    def load(directory: Path) -> "ClipTokenizer":
        """Load the vocabulary of a directory: vocab.json and merges.txt, or else tokenizer.json.

        Raises CheckpointError if it is missing or damaged, or if a package is not installed.
        """
        return build_tokenizer(directory, ClipTokenizer)

    def __call__(self, text: str) -> Tensor:
        """Return the token ids of a sentence, [1, 77] int64; one that is longer is cut, and still ends with the end."""
        ids = [self._start, *self._encode(self.clean(text)), self.end]
        self._notice.check(len(ids))
        if len(ids) > CLIP_TOKENS:
            ids = [*ids[: CLIP_TOKENS - 1], self.end]
        tokens = torch.zeros(1, CLIP_TOKENS, dtype=torch.int64)
        tokens[0, : len(ids)] = torch.tensor(ids)
        return tokens

    def clean(self, text: str) -> str:
        """Return a sentence without mojibake, HTML escapes, capitals and superfluous white space."""
        # Quirk of open_clip: unescaped twice.
        text = html.unescape(html.unescape(self._fix(text)))
        return " ".join(text.split()).lower()

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in self._pieces.findall(text):
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                letters = "".join(part for part, _ in self._bytes.pre_tokenize_str(piece))
                ids += [token.id for token in self._model.tokenize(letters)]
        return ids
