"""CLIP's tokens of a sentence, as open_clip's own tokenizer makes them with the published vocabulary."""

import html
from pathlib import Path

import torch
from torch import Tensor

from pipeline.conditioning.sentences import CLIP_TOKENS, CutNotice
from pipeline.errors import CheckpointError
from pipeline.weights.files import TOKENIZER_FILE, VOCABULARY_FILES, read_json
from pipeline.weights.hub_cache import cure, describe_missing

# The names of the two special tokens in the vocabulary's file, and those by which open_clip knows them in a sentence.
_START, _END = "<|startoftext|>", "<|endoftext|>"
_SPECIAL = {"<start_of_text>": _START, "<end_of_text>": _END}
_END_OF_WORD = "</w>"
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
        self._model = models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=_END_OF_WORD)
        self._special = {name: vocabulary[token] for name, token in _SPECIAL.items()}
        self._start, self.end = vocabulary[_START], vocabulary[_END]
        endings = ("", _END_OF_WORD)
        if missing := {a + b for a in self._bytes.alphabet() for b in endings} - vocabulary.keys():
            raise KeyError(min(missing))
        if self.end != max(vocabulary.values()):
            raise ValueError(f"{_END} has the id {self.end}, which is not the largest")

    @staticmethod
    def load(directory: Path) -> "ClipTokenizer":
        """Load the vocabulary of a directory: vocab.json and merges.txt, or else tokenizer.json.

        Raises CheckpointError if it is missing or damaged, or if a package is not installed.
        """
        file, merges = (directory / name for name in VOCABULARY_FILES)
        # A link that leads nowhere stands for a file that was there.
        if not (file.exists() or file.is_symlink()) and (directory / TOKENIZER_FILE).exists():
            file = merges = directory / TOKENIZER_FILE
        content = read_json(file)
        try:
            if file == merges:
                vocabulary, pairs = content["model"]["vocab"], content["model"]["merges"]
            else:
                # The first line is a comment.
                vocabulary, pairs = content, merges.read_text(encoding="utf-8").splitlines()[1:]
            return ClipTokenizer(vocabulary, [_pair(pair) for pair in pairs if pair])
        except CheckpointError:
            raise
        except FileNotFoundError:
            raise CheckpointError(describe_missing(merges)) from None
        except Exception as error:  # tokenizers raises plain Exception
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise CheckpointError(f"{file} is no vocabulary of CLIP ({reason}){cure(file)}") from None

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


def _pair(merge: str | list[str]) -> tuple[str, str]:
    """Return the two tokens of a merge, "a b" or ["a", "b"]."""
    first, second = merge.split() if isinstance(merge, str) else merge
    return first, second
