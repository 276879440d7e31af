"""Functions that are captured and replayed."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from pipeline.fused.graphs import GraphedCallable, GraphPool, StaticTensors

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_without_a_pool_the_function_is_run_each_time(device: torch.device) -> None:
    calls: list[Tensor] = []

    def double(x: Tensor) -> Tensor:
        calls.append(x)
        return 2 * x

    graphed = GraphedCallable(double, None)
    inputs = [torch.full((3,), float(n), device=device) for n in range(3)]
    results = [graphed(x) for x in inputs]
    assert [float(result[0]) for result in results] == [0.0, 2.0, 4.0]
    assert calls == inputs


@needs_cuda
def test_a_function_is_run_once_captured_once_and_then_replayed(device: torch.device) -> None:
    calls: list[int] = []

    def add(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return x + y

    graphed = GraphedCallable(add, GraphPool(device))
    one = torch.ones(3, device=device)
    results = [graphed(torch.full((3,), float(n), device=device), one).tolist() for n in range(5)]
    assert results == [[n + 1.0] * 3 for n in range(5)]
    assert len(calls) == 2


def test_static_tensors_stay_where_they_are_and_follow_their_sources(device: torch.device) -> None:
    static = StaticTensors()
    sources = [[torch.full((3,), float(n), device=device), torch.ones(2, 2, device=device) * n] for n in range(2)]
    places = {tuple(tensor.data_ptr() for tensor in static.load(sources[n])) for n in (0, 0, 1, 1, 0)}
    assert len(places) == 1
    for n in (0, 1, 1, 0):
        vector, matrix = static.load(sources[n])
        assert (vector.tolist(), matrix.tolist()) == ([n] * 3, [[n] * 2] * 2)
    # Of other shapes elsewhere, as new sources in the place of one that is gone are copied.
    static.load([torch.zeros(5, device=device)])
    assert static.load(sources[1])[0].tolist() == [1.0] * 3
    del sources[1]
    assert static.load([torch.full((3,), 7.0, device=device), torch.ones(2, 2, device=device)])[0].tolist() == [7.0] * 3
    assert static.load([]) == []


@needs_cuda
def test_graphs_of_one_pool_take_turns_and_come_and_go(device: torch.device) -> None:
    pool = GraphPool(device)
    for size in (1_000_000, 3_000_000, 500_000):
        x = torch.arange(size, device=device, dtype=torch.float32)
        pair = [
            GraphedCallable(lambda x: (x + 1).sqrt() * 2, pool),
            GraphedCallable(lambda x: (3 * x).sum()[None], pool),
        ]
        for _ in range(3):
            first, second = (each(x) for each in pair)
        assert torch.allclose(first, (x + 1).sqrt() * 2)
        assert torch.allclose(second, (3 * x).sum()[None])


def test_without_enough_memory_to_capture_the_function_is_run() -> None:
    class Full:
        def capture(self, _run: Callable[[], Tensor]) -> None:
            raise torch.OutOfMemoryError

    graphed = GraphedCallable(lambda x: x + 1, cast(GraphPool, Full()))
    x = torch.ones(2)
    assert [graphed(n * x).tolist() for n in range(4)] == [[n + 1.0] * 2 for n in range(4)]


@needs_cuda
def test_memory_that_runs_out_while_capturing_spoils_nothing(device: torch.device) -> None:
    calls: list[int] = []

    def runs_out_the_second_time(x: Tensor) -> Tensor:
        calls.append(1)
        out = x + 1
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return out

    x, pool = torch.ones(2, device=device), GraphPool(device)
    graphed, other = GraphedCallable(runs_out_the_second_time, pool), GraphedCallable(lambda x: x + 2, pool)
    for _ in range(3):
        assert graphed(x).tolist() == [2.0, 2.0]
        assert other(x).tolist() == [3.0, 3.0]
    assert len(calls) == 4
