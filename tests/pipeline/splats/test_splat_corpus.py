import random
import tracemalloc

import pytest
import torch
from torch.nn.functional import normalize

from pipeline.errors import FormatError
from tests.support.splat_corpus import SPLATS, SplatCase, read, warning


@pytest.mark.parametrize("case", SPLATS, ids=lambda case: case.name)
def test_files_that_people_have_are_read_right_or_refused_by_name(case: SplatCase) -> None:
    if isinstance(case.expected, str):
        with pytest.raises(FormatError, match=case.expected):
            read(case)
        return
    splats = read(case)
    found, expected = splats.tensors(), case.expected.tensors()
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        if name == "quaternions" and case.bounds:
            values, found[name] = normalize(values), normalize(found[name])
            # Both signs are the same rotation.
            found[name] = found[name] * (values * found[name]).sum(dim=1, keepdim=True).sign()
        bound = case.bounds.get(name, 0.0) * 1.001
        torch.testing.assert_close(found[name], values, rtol=0, atol=bound, equal_nan=True)
    assert case.warning in warning(case)
    assert bool(case.warning) == bool(warning(case))


@pytest.mark.parametrize(
    "case", [case for case in SPLATS if isinstance(case.expected, str)], ids=lambda case: case.name
)
def test_no_memory_is_taken_for_what_is_refused(case: SplatCase) -> None:
    data = case.make()
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            read(SplatCase(case.name, lambda: data, case.expected))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "case", [case for case in SPLATS if not isinstance(case.expected, str)], ids=lambda case: case.name
)
def test_damage_anywhere_gives_splats_or_a_format_error(case: SplatCase) -> None:
    chance, whole = random.Random(0), case.make()
    for _ in range(8):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 5])):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 255, chance.randrange(256)])
        damaged = damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])]
        try:
            assert len(read(SplatCase(case.name, lambda d=damaged: bytes(d), ""))) >= 1
        except FormatError as error:
            assert str(error)


def test_the_corpus_is_large() -> None:
    assert len(SPLATS) >= 60
