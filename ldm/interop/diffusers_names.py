"""Names of attention layers in files that early versions of diffusers wrote."""

_FORMER = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Before version 0.17 -> since."""


def current_name(name: str) -> str:
    """A parameter's name as diffusers writes it today."""
    for former, current in _FORMER.items():
        name = name.replace(former, current)
    return name
