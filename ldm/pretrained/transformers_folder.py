"""Models, tokenisers and preprocessing from local folders of transformers: whole, without its reports, no download."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ldm.pretrained.torchvision_ops import ensure_torchvision


class UnreadableFolderError(Exception):
    """A folder does not hold what it should; the text says why in one line."""


def read_part(class_name: str, folder: Path, **options: Any) -> Any:
    """What transformers' class of that name reads from a folder, e.g. ("AutoTokenizer", folder).

    Raises: UnreadableFolderError.
    """
    ensure_torchvision()  # which transformers' models and preprocessing import
    import transformers

    try:
        with _without_reports():
            return getattr(transformers, class_name).from_pretrained(str(folder), local_files_only=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise UnreadableFolderError((str(error).strip().splitlines() or [type(error).__name__])[0]) from error


def read_model(class_name: str, folder: Path, unused: Sequence[str] = ()) -> Any:
    """A model whose weights all come from safetensors in the folder, but for those that begin with one of `unused`.

    Raises: UnreadableFolderError.
    """
    options = {"use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    model, report = read_part(class_name, folder, **options)
    # transformers would fill them with random numbers and go on.
    lacking = [key for key in report["missing_keys"] if not key.startswith(tuple(unused))]
    lacking += [str(item[0]) for item in report["mismatched_keys"]]
    if lacking:
        raise UnreadableFolderError(
            f"{len(lacking)} of its weights are missing or of another shape, {min(lacking)} among them"
        )
    return model


@contextmanager
def _without_reports() -> Iterator[None]:
    """Keeps transformers from printing bars and tables: what matters of them is an error here."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()
