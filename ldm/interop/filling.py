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


def fill(module: nn.Module, state: Mapping[str, Tensor], theirs: Mapping[str, str], told: str) -> None:
    """Loads a state dict under our names; `theirs` are the names in the file, `told` is what it should hold.

    Raises: UserError for a weight that is missing, of another shape, or one too many.
    """
    expected = module.state_dict()
    for name, ours in expected.items():
        shape, stored = tuple(ours.shape), theirs.get(name, name)
        if name not in state:
            raise UserError(f"{told} has no weight '{stored}', of shape {shape}")
        if tuple(state[name].shape) != shape:
            raise UserError(f"{told} has '{stored}' of shape {tuple(state[name].shape)}, but {shape} is expected")
    extra = sorted(theirs.get(name, name) for name in state.keys() - expected.keys())
    if extra:
        raise UserError(f"{told} has {len(extra)} weights too many, such as '{extra[0]}'")
    module.load_state_dict({name: value.to(expected[name].dtype) for name, value in state.items()})
