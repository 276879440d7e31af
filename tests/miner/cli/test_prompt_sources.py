import io
from pathlib import Path

import pytest
from PIL import Image

from miner.cli.prompt_sources import PromptSource, find_prompts
from miner.errors import OperatorError
from pipeline import ImagePrompt, ImagesPrompt, PromptError, TextPrompt


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with two pictures in `pictures`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for name in ("b.png", "a.JPG"):
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / name, "PNG")
    (tmp_path / "pictures" / "notes.md").write_text("no picture")
    return tmp_path


def stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))


def names(sources: tuple[PromptSource, ...]) -> list[str]:
    return [source.name for source in sources]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("a red chair",), ["a red chair"]),
        (("a", "red", "chair"), ["a red chair"]),
        (("a red chair", "a blue car"), ["a red chair", "a blue car"]),
        (("a red chair", "duck"), ["a red chair", "duck"]),
        (("",), ["''"]),
        (("a chair", ""), ["a chair", "''"]),
        (("pictures",), ["pictures/a.JPG", "pictures/b.png"]),
        (("pictures/b.png", "a duck"), ["pictures/b.png", "a duck"]),
        # Told as missing when it is read, and not taken for a sentence.
        (("none.png",), ["none.png"]),
        (("a chair " * 200,), ["a chair " * 9 + "a chair…"]),
    ],
)
def test_words_are_prompts(folder: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert names(find_prompts(words, None)) == expected


def test_prompts_are_what_they_say(folder: Path) -> None:
    picture, sentence = find_prompts(("pictures/b.png", "a duck"), None)
    assert isinstance(picture.read(), ImagePrompt)
    assert (picture.is_text, picture.files, picture.stem) == (False, (Path("pictures/b.png"),), "b")
    assert sentence.read() == TextPrompt("a duck")
    assert (sentence.is_text, sentence.files, sentence.stem) == (True, (), "a-duck")
    (missing,) = find_prompts(("none.png",), None)
    with pytest.raises(PromptError, match=r"none\.png cannot be read: No such file"):
        missing.read()


def test_a_name_for_files_is_safe() -> None:
    (source,) = find_prompts(("../Ein Stuhl: «rot»! " + "x" * 80,), None)
    assert source.stem == "ein-stuhl-rot-xxxxxxxxxxxxxxxxxxxxxxxxxx"
    (source,) = find_prompts(("椅 子",), None)
    assert source.stem == "object"


@pytest.mark.parametrize("word", ["-", "list.txt"])
def test_lines_are_prompts(folder: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    content = "\ufeffa red chair\r\n\n  pictures/b.png  \n-\nlist.txt".encode()
    stdin(monkeypatch, content)
    (folder / "list.txt").write_bytes(content)
    # The last line is a file that is no picture: what it names is not read for more prompts.
    assert names(find_prompts((word,), None)) == ["a red chair", "pictures/b.png", "-", "list.txt"]


def test_a_picture_may_come_by_stdin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, (folder / "pictures" / "b.png").read_bytes())
    (source,) = find_prompts(("-",), None)
    assert isinstance(source.read(), ImagePrompt)
    assert source.stem == "the-standard-input"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the standard input has no prompt: write one a line"),
        (b" \n\n", "the standard input has no prompt: write one a line"),
        (b"caf\xe9", "the standard input is no UTF-8 text"),
    ],
)
def test_stdin_without_a_prompt(monkeypatch: pytest.MonkeyPatch, content: bytes, message: str) -> None:
    stdin(monkeypatch, content)
    with pytest.raises(OperatorError, match=message):
        find_prompts(("-",), None)


def test_stdin_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.MAX_IMAGE_BYTES", 10)
    monkeypatch.setattr("pipeline.conditioning.prompt.MAX_IMAGE_BYTES", 10)
    stdin(monkeypatch, b"a chair\n" * 10)
    (source,) = find_prompts(("-",), None)
    with pytest.raises(PromptError, match="11 bytes, more than 10"):
        source.read()


def test_a_folder_without_pictures(folder: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(OperatorError, match="the folder empty has no picture"):
        find_prompts(("empty",), None)


def test_what_is_named_like_a_folder_is_no_sentence(folder: Path) -> None:
    with pytest.raises(OperatorError, match="the folder picturse/ does not exist"):
        find_prompts(("picturse/",), None)


def test_a_list_that_is_missing(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.txt"):
        find_prompts(("none.txt",), None)


def test_several_pictures_of_one_object(folder: Path) -> None:
    (source,) = find_prompts(("pictures",), "multidiffusion")
    prompt = source.read()
    assert isinstance(prompt, ImagesPrompt)
    assert (len(prompt.images), prompt.combine) == (2, "multidiffusion")
    assert source.name == "a.JPG and b.png"
    with pytest.raises(OperatorError, match="and 'a duck' is no picture"):
        find_prompts(("pictures", "a duck"), "stochastic")
