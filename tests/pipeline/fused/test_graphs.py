"""Functions that are captured and replayed."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from pipeline.fused.graphs import GraphedCallable, GraphPool

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
    results = [graphed(torch.full((3,), float(n), device=device), torch.ones(3, device=device)) for n in range(5)]
    assert [result.tolist() for result in results] == [[n + 1.0] * 3 for n in range(5)]
    assert len(calls) == 2


@needs_cuda
def test_constants_are_those_of_each_call(device: torch.device) -> None:
    graphed = GraphedCallable(lambda x, y: x + y, GraphPool(device))
    x, constants = torch.ones(3, device=device), [torch.full((3,), float(n), device=device) for n in range(2)]
    for n in (0, 0, 0, 1, 1, 0, 1):
        assert graphed(x, constants=[constants[n]]).tolist() == [n + 1.0] * 3


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
