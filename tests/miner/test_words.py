import pytest

from miner.words import plural


@pytest.mark.parametrize(("count", "words"), [(0, "0 tasks"), (1, "1 task"), (2, "2 tasks"), (1200, "1200 tasks")])
def test_one_is_singular(count: int, words: str) -> None:
    assert plural(count, "task") == words
