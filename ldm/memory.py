"""Memory that does not suffice: torch has an error of its own for a GPU, for a CPU only a text."""

import torch

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
