"""Functions that are recorded and replayed."""

from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import Tensor

from pipeline.fused.graphs import GraphedCallable, GraphMemory

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def test_without_memory_for_graphs_the_function_is_run_each_time(device: torch.device) -> None:
    calls: list[Tensor] = []

    def double(x: Tensor) -> Tensor:
        calls.append(x)
        return 2 * x

    replayed = GraphedCallable(double, None)
    inputs = [torch.full((3,), float(n), device=device) for n in range(3)]
    results = [replayed(x) for x in inputs]
    assert [float(result[0]) for result in results] == [0.0, 2.0, 4.0]
    assert calls == inputs


@needs_cuda
def test_a_function_is_run_once_recorded_once_and_then_replayed(device: torch.device) -> None:
    calls: list[int] = []

    def add(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return x + y

    replayed = GraphedCallable(add, GraphMemory(device))
    results = [replayed(torch.full((3,), float(n), device=device), torch.ones(3, device=device)) for n in range(5)]
    assert [result.tolist() for result in results] == [[n + 1.0] * 3 for n in range(5)]
    assert len(calls) == 2


@needs_cuda
def test_graphs_of_one_memory_take_turns_and_come_and_go(device: torch.device) -> None:
    memory = GraphMemory(device)
    for size in (1_000_000, 3_000_000, 500_000):
        x = torch.arange(size, device=device, dtype=torch.float32)
        pair = [
            GraphedCallable(lambda x: (x + 1).sqrt() * 2, memory),
            GraphedCallable(lambda x: (3 * x).sum()[None], memory),
        ]
        for _ in range(3):
            first, second = (each(x) for each in pair)
        assert torch.allclose(first, (x + 1).sqrt() * 2)
        assert torch.allclose(second, (3 * x).sum()[None])


def test_without_enough_memory_to_record_the_function_is_run() -> None:
    class Full:
        def record(self, _run: Callable[[], Tensor]) -> None:
            raise torch.OutOfMemoryError

    replayed = GraphedCallable(lambda x: x + 1, cast(GraphMemory, Full()))
    x = torch.ones(2)
    assert [replayed(n * x).tolist() for n in range(4)] == [[n + 1.0] * 2 for n in range(4)]


@needs_cuda
def test_memory_that_runs_out_while_recording_spoils_nothing(device: torch.device) -> None:
    calls: list[int] = []

    def runs_out_the_second_time(x: Tensor) -> Tensor:
        calls.append(1)
        out = x + 1
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return out

    x, memory = torch.ones(2, device=device), GraphMemory(device)
    replayed, other = GraphedCallable(runs_out_the_second_time, memory), GraphedCallable(lambda x: x + 2, memory)
    for _ in range(3):
        assert replayed(x).tolist() == [2.0, 2.0]
        assert other(x).tolist() == [3.0, 3.0]
    assert len(calls) == 4
