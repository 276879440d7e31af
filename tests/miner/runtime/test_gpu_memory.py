import pytest
import torch

from miner.runtime.gpu_memory import read_gpu_memory


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_there_is_nothing_to_tell() -> None:
    assert read_gpu_memory() == ()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_tensors_use_and_torch_holds() -> None:
    before = torch.cuda.memory_allocated()
    held = torch.zeros(1 << 20, device="cuda")
    gpu = read_gpu_memory()[0]
    assert (gpu.device, gpu.name) == ("cuda:0", torch.cuda.get_device_name(0))
    assert gpu.allocated == before + held.nbytes
    assert gpu.allocated <= gpu.reserved <= gpu.total
