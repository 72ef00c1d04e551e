"""Filling a network with the weights that another program saved under names of its own."""

from collections.abc import Mapping

from torch import Tensor, nn

from ldm.errors import UserError


def load_renamed(module: nn.Module, checkpoint: Mapping[str, Tensor], stored: Mapping[str, str]) -> None:
    """Fills `module` with a checkpoint's weights; `stored` gives the name there of each of ours.

    Raises: UserError for a weight that is missing or of another shape.
    """
    state = {}
    for name, ours in module.state_dict().items():
        theirs = checkpoint.get(stored[name])
        if theirs is None or theirs.shape != ours.shape:
            found = "is missing" if theirs is None else f"has shape {tuple(theirs.shape)}"
            raise UserError(f"the checkpoint's weight '{stored[name]}' {found}; expected {tuple(ours.shape)}")
        state[name] = theirs.to(ours.dtype)
    module.load_state_dict(state)
