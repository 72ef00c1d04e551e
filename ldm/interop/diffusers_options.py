"""Options in configs of diffusers that no reader here supports."""

from collections.abc import Collection, Mapping
from typing import Any

from ldm.errors import UserError


def refuse_unknown(config: Mapping[str, Any], known: Collection[str], told: str) -> None:
    """Checks that each option is in the vocabulary `known` or off (None, False or 0); `told` is whose config it is.

    Raises: UserError for any other.
    """
    foreign = [
        key for key, value in config.items() if key[0] != "_" and key not in known and value not in (None, False)
    ]
    if foreign:
        raise UserError(
            f"the config of {told} has {foreign[0]}={config[foreign[0]]!r}, an option that this program does not know"
        )
