import pytest
import torch

from pipeline.compute import choose_compute, choose_drawing_device
from pipeline.errors import PipelineError


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch):
    """Let torch see so many CUDA devices of a capability, with Triton and a C compiler installed or not."""

    def see(
        count: int, capability: tuple[int, int] = (9, 0), triton: bool = True, compiler: str | None = "clang"
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr("pipeline.compute.find_spec", lambda name: object() if triton else None)
        monkeypatch.delenv("CC", raising=False)
        monkeypatch.setattr("pipeline.compute.which", lambda name: f"/bin/{name}" if name == compiler else None)

    return see


def test_without_cuda_auto_is_the_cpu_in_float32(devices) -> None:
    devices(0)
    compute = choose_compute()
    assert (compute.device, compute.dtype) == (torch.device("cpu"), torch.float32)
    assert compute.reason == "cpu (no CUDA device is available), float32 blocks, plain kernels (the device is no GPU)"


def test_with_cuda_auto_is_cuda_in_float16(devices) -> None:
    devices(1)
    compute = choose_compute()
    assert (compute.device, compute.dtype) == (torch.device("cuda"), torch.float16)
    assert compute.reason == "cuda (a CUDA device is available), float16 blocks, fused kernels"


@pytest.mark.parametrize(
    ("device", "expected", "dtype"),
    [("cpu", "cpu", torch.float32), ("cuda", "cuda", torch.float16), ("cuda:1", "cuda:1", torch.float16)],
)
def test_a_named_device_is_used_with_its_own_precision(device: str, expected: str, dtype: torch.dtype, devices) -> None:
    devices(2)
    compute = choose_compute(device)
    assert (compute.device, compute.dtype) == (torch.device(expected), dtype)
    assert compute.reason.startswith(f"{expected} (the settings ask for it), {str(dtype)[6:]} blocks, ")


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_a_named_precision_is_used(device: str, precision: str, devices) -> None:
    devices(0)
    assert choose_compute(device, precision).dtype == getattr(torch, precision)


@pytest.mark.parametrize(("device", "count"), [("cuda", 0), ("cuda:0", 0), ("cuda:2", 2)])
def test_a_device_that_is_not_available_is_named(device: str, count: int, devices) -> None:
    devices(count)
    with pytest.raises(PipelineError, match=f"device '{device}' is not available: torch .* sees {count} CUDA devices"):
        choose_compute(device)


@pytest.mark.parametrize("device", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "mps", "meta", "xpu:0"])
def test_another_device_is_refused(device: str, devices) -> None:
    devices(1)
    with pytest.raises(PipelineError, match="use auto, cpu, cuda or cuda:N"):
        choose_compute(device)


@pytest.mark.parametrize(
    ("capability", "triton", "precision", "kernels", "why"),
    [
        ((7, 5), True, "auto", "auto", "the GPU is older than Ampere"),
        ((8, 0), False, "auto", "auto", "the package triton is missing"),
        ((9, 0), True, "float32", "auto", "the precision is float32"),
        ((9, 0), True, "auto", "plain", "kernels: plain is set"),
    ],
)
def test_where_kernels_cannot_be_fused_it_says_why(capability, triton, precision, kernels, why, devices) -> None:
    devices(1, capability, triton)
    compute = choose_compute("cuda", precision, kernels)
    assert not compute.fused
    assert compute.reason.endswith(f" blocks, plain kernels ({why})")


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_kernels_are_fused_in_half_precision(precision, devices) -> None:
    devices(1, (8, 0))
    assert choose_compute("cuda", precision).fused
    assert choose_compute("cuda", precision, "fused").fused


def test_fused_kernels_that_cannot_run_are_refused(devices) -> None:
    devices(0)
    with pytest.raises(
        PipelineError, match="kernels: fused cannot be used, since the device is no GPU; set kernels: auto"
    ):
        choose_compute(kernels="fused")


def test_kernels_are_not_fused_where_triton_finds_no_c_compiler(devices, monkeypatch: pytest.MonkeyPatch) -> None:
    devices(1, compiler=None)
    assert choose_compute().reason.endswith(
        " blocks, plain kernels (Triton needs a C compiler, and neither gcc nor clang is installed)"
    )
    monkeypatch.setenv("CC", "cc")
    assert choose_compute().fused
    monkeypatch.delenv("CC")
    devices(1, compiler="gcc")
    assert choose_compute().fused


@pytest.mark.parametrize(
    ("count", "free_gib", "triton", "expected"),
    [(1, 3, True, "cuda"), (1, 1, True, "cpu"), (1, 3, False, "cpu"), (0, 3, True, "cpu")],
)
def test_pictures_are_drawn_on_a_gpu_that_has_memory_to_spare(
    count: int, free_gib: int, triton: bool, expected: str, devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(count, triton=triton)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free_gib * 2**30, 80 * 2**30))
    assert choose_drawing_device() == torch.device(expected)
