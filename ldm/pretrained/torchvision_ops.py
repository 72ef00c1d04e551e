"""Makes `import torchvision` work beside a CPU build of torch."""

import importlib
import sys

import torch

_BOX_SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_declared: list[torch.library.Library] = []
"""Keeps the declarations alive: a library that is collected takes its operators with it."""


def ensure_torchvision() -> None:
    """Imports torchvision, declaring the operators it misses where its compiled part does not fit torch.

    Package registries pair the CUDA build of torchvision with the CPU build of torch; its import then stops at
    "operator torchvision::nms does not exist", and so does the import of all that imports it (lpips, torch_fidelity).
    Transforms and models need neither operator, so declaring both without an implementation suffices. A working
    torchvision is left as it is: the declaration would clash with its own. Calling this again does nothing.

    Raises: whatever the import raises when its cause is another one.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _declared:
            raise
        # What the failed import left behind would be taken for imported by the next one.
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        _declared.append(library)
        for operator in ("nms", "qnms"):
            library.define(operator + _BOX_SUPPRESSION)
        importlib.import_module("torchvision")
