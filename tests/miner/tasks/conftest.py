from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from miner.config.phase import Phase
from pipeline import (
    spz,
)
from tests.support.miner_parts import MinerParts


@pytest.fixture
def parts(tmp_path: Path, phase: Phase) -> Iterator[MinerParts]:
    parts = MinerParts(tmp_path, phase)
    yield parts
    parts.close()


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often splats were encoded and decoded."""
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        function: Callable[..., object] = getattr(spz, name)

        def counted(*arguments: object, **options: object) -> object:
            calls[name] += 1
            return function(*arguments, **options)

        monkeypatch.setattr(spz, name, counted)

    count("to_bytes")
    count("from_bytes")
    return calls
