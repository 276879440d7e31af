"""The token ids of a sentence that a text encoder takes, as CLIPTokenizer of transformers makes them.

They differ from those of pipeline.scoring.clip_tokens, which follows open_clip as the validator does: this tokenizer
repairs no mojibake and unescapes no HTML, composes characters (NFC), and pads with the end token.
"""

from pathlib import Path

from pipeline.conditioning.sentences import CLIP_TOKENS, CutNotice
from pipeline.encoders.vocabulary import END, END_OF_WORD, START, build_tokenizer

_PIECES = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class TextTokenizer:
    """Byte-pair encoding of a sentence to 77 token ids: start, the sentence, and the end until there are 77.

    size: one more than the largest id.
    """

    def __init__(self, vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> None:
        """Take the ids of tokens, and the pairs to join, the most important first.

        Raises KeyError if a special token is missing, and whatever `tokenizers` raises.
        """
        # Imported only when needed, because it is slow.
        from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

        self._start, self._end = vocabulary[START], vocabulary[END]
        self.size = 1 + max(vocabulary.values())
        self._notice = CutNotice("the text checkpoint's encoder", CLIP_TOKENS)
        # What is not in the vocabulary becomes the end token, which the published tokenizer names as unknown, too.
        self._tokenizer = Tokenizer(
            models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD, unk_token=END)
        )
        self._tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )
        # In a sentence, their names stand for the special tokens themselves.
        self._tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in (START, END)])

    @staticmethod
    def load(directory: Path) -> "TextTokenizer":
        """Load the vocabulary of a directory. Raises CheckpointError if it is missing or damaged."""
        return build_tokenizer(directory, TextTokenizer)

    def __call__(self, text: str) -> list[int]:
        """Return the 77 token ids of a sentence; one that is longer is cut, and still ends with the end.

        The first sentence that is cut is told in the log.
        """
        ids = [self._start, *self._tokenizer.encode(text).ids, self._end]
        self._notice.check(len(ids))
        ids = ids[: CLIP_TOKENS - 1]
        return ids + [self._end] * (CLIP_TOKENS - len(ids))
