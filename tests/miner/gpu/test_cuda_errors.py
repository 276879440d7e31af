import pytest
import torch

from miner.gpu.cuda_errors import is_fatal_cuda_error


@pytest.mark.parametrize(
    ("error", "breaks"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True),
        (torch.AcceleratorError("unspecified launch failure"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), False),
        (RuntimeError("CUDA error: out of memory"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error: quoted by somebody"), False),
        (None, False),
    ],
)
def test_only_errors_of_the_device_break_it(error: Exception | None, breaks: bool) -> None:
    assert is_fatal_cuda_error(error) is breaks


def test_the_cause_counts() -> None:
    error = ValueError("generation failed")
    error.__cause__ = RuntimeError("CUDA error: misaligned address")
    assert is_fatal_cuda_error(error)
