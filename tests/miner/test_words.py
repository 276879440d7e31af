import pytest

from miner.words import did_you_mean, plural, shortened


@pytest.mark.parametrize(("count", "words"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1200, "1200 tasks")])
def test_one_is_singular(count: int, words: str) -> None:
    assert plural(count, "task") == words


@pytest.mark.parametrize(
    ("name", "words"),
    [("qualty", " (did you mean quality?)"), ("phse", " (did you mean phase or phases?)"), ("xyz", ""), ("", "")],
)
def test_a_suggestion(name: str, words: str) -> None:
    assert did_you_mean(name, ["quality", "score", "phase", "phases"]) == words


@pytest.mark.parametrize(
    ("text", "line"),
    [("a duck", "a duck"), (" a\n duck ", "a duck"), ("a duckling", "a duckl…"), ("a chair of", "a chair…")],
)
def test_a_short_line(text: str, line: str) -> None:
    assert shortened(text, 8) == line
