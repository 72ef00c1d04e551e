"""Memory: copies to a GPU that nobody waits for, what fits there, and errors that say that it does not suffice.

For the last torch has a class of its own for a GPU, for a CPU only a text.
"""

import torch
from torch import Tensor

TEXTS = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""What an error of torch's says that has no class of its own: a CPU's allocator, and cuBLAS."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the GPU or of this machine, did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in TEXTS)


def give_back_unused() -> None:
    """Returns what torch keeps of a GPU's memory for later, so that pieces of other sizes fit."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def moved(values: Tensor, device: torch.device | str) -> Tensor:
    """The tensor on a device; to a GPU from memory that stays in place, so that the CPU goes on meanwhile."""
    if torch.device(device).type != "cuda" or values.is_cuda:
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def free_bytes(device: torch.device | str) -> int:
    """What is free of a GPU's memory; 0 of a CPU's, where nothing has to be brought nearer."""
    if torch.device(device).type != "cuda":
        return 0
    return torch.cuda.mem_get_info(device)[0]
