"""What a drawn figure says, for tests."""

from matplotlib.figure import Figure


def said(figure: Figure) -> str:
    """What stands around its panels, and what its caption says of it."""
    shown = (text.get_text().replace("\n", " ") for text in figure.texts)
    return " ".join([*shown, *figure.words.notes])
