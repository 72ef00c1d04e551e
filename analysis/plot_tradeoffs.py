"""Draws the trade-offs of a sweep: `python analysis/plot_tradeoffs.py [--store DIR] [--out DIR] [--sweep ID|all]`."""

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in {None, ""}:
    # Run as a script, Python looks beside this file; the packages lie one folder up.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from analysis.store import Stores
from analysis.tracked import pulled
from ldm.errors import UserError, nearest
from ldm.printed import printed

if TYPE_CHECKING:  # what is slow to import waits until a command is known to be right
    from analysis.collect import Study
    from analysis.drawn import Drawn

DESCRIPTION = """Reads the records of a store and writes results.csv (one row a measured value), table.md (one row a
cell), means.csv (over seeds), comparisons.csv (each cell against the best, with a verdict), cells.tex, cells.md and
cells.csv (for a paper, the best in bold), captions.md, and figures as PNG, SVG and PDF, each with its numbers as CSV:
rate_distortion, quality_vs_f, quality_vs_throughput, quality_vs_training, quality_vs_compute; front where the costs of
several cells are known; quality_at_budgets and crossings where trainings have several milestones; quality_vs_nfe where
several samplers were swept; autoencoders where several given ones were; progressive_coding where metrics.likelihood was
asked for; predictors.md, how well predictors of latent spaces ranked them, where metrics.predictors was;
shortlist.md, what leaving first stages out saved and risked, where some were."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    command = argparse.ArgumentParser(prog="plot_tradeoffs.py", description=DESCRIPTION)
    command.add_argument(
        "--store",
        dest="stores",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder that run.py wrote (default: store); given several times, the stores are read as one, in which the "
        "first has the last word",
    )
    command.add_argument(
        "--source",
        choices=("store", "wandb"),
        default="store",
        help="read the store (default), or the runs that `python -m experiments.tracking push` wrote to W&B",
    )
    command.add_argument(
        "--project",
        metavar="[ENTITY/]PROJECT",
        default="ldm-tradeoffs",
        help="of W&B, for --source wandb (default: ldm-tradeoffs)",
    )
    command.add_argument(
        "--out", type=Path, help="folder for table and figures (default: analysis/<sweep> inside the first store)"
    )
    command.add_argument("--sweep", metavar="ID|all", help="sweep to draw, or all of them (default: the latest)")
    command.add_argument(
        "--allow-mixed-protocols",
        action="store_true",
        help="draw values that were measured in different ways, marked, instead of refusing them",
    )
    command.add_argument(
        "--overlay",
        action="store_true",
        help="draw numbers of Rombach et al. 2022 in grey, with all in which they were measured otherwise",
    )
    command.add_argument(
        "--against",
        metavar="CELL",
        help="compare the cells with the one whose name in table.md begins so (default: with the best)",
    )
    command.add_argument(
        "--metric",
        metavar="NAME",
        help="draw this metric of samples, as results.csv names it, instead of the distance that n allows (by default "
        "into a folder of its own)",
    )
    command.add_argument(
        "--checklist",
        action="store_true",
        help="also write checklist.md: published numbers beside this sweep's, compared where measured alike",
    )
    return command


def stores_of(options: argparse.Namespace) -> list[Path]:
    """The stores that a command line names."""
    return options.stores or [Path("store")]


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written of a sweep: its study, the paths in the order of writing, and the figures by name."""

    study: "Study"
    paths: list[Path]
    figures: "Mapping[str, Drawn]"

    @property
    def folder(self) -> Path:
        """Where all of it lies."""
        return self.paths[0].parent


def draw(
    stores: Stores,
    out: Path | None,
    sweep: str | None,
    allow_mixed: bool,
    overlay: bool = False,
    checklist: bool = False,
    against: str | None = None,
    metric: str | None = None,
) -> list[Path]:
    """Writes table and figures of a sweep and returns their paths, in the order of writing.

    Raises: UserError as `write` does.
    """
    return write(stores, out, sweep, allow_mixed, overlay, checklist, against, metric).paths


def write(
    stores: Stores,
    out: Path | None,
    sweep: str | None,
    allow_mixed: bool,
    overlay: bool = False,
    checklist: bool = False,
    against: str | None = None,
    metric: str | None = None,
    kinds: Sequence[str] = ("png", "svg", "pdf"),
) -> Written:
    """Writes table and figures of a sweep; `kinds`: the figures' files.

    Raises: UserError where a store cannot be read, the sweep has no finished row, protocols are mixed, or nothing of
    that metric was measured.
    """
    from analysis import checklist as checks
    from analysis import compare, limits, numbers, papers, predictors, print_tables, protocols, shortlist
    from analysis.collect import read_study
    from analysis.columns import UNPRINTED
    from analysis.drawn import drawing
    from analysis.headline import drawable
    from analysis.pictures import pictures
    from analysis.rate_curves import rate_curves_frame
    from analysis.table import markdown

    study = read_study(stores, sweep)
    protocols.check(study, allow_mixed)
    if metric is not None and metric not in (known := drawable(study.frame)):
        raise UserError(f"--metric '{metric}' is none of {', '.join(known)}{nearest(metric, known)}.")
    if overlay or metric is not None:
        study = dataclasses.replace(study, published=papers.ldm() if overlay else (), metric=metric)
    compared = limits.compared(study, against)
    folder = out if out is not None else study.stores[0] / "analysis" / study.sweep / (metric or "")
    check_writable(folder)
    with drawing(study, kinds) as finished:
        results = study.frame.drop(columns=list(UNPRINTED))
        made = {
            "results.csv": results.to_csv(index=False),
            "table.md": markdown(study, against),
            "means.csv": compare.means_frame(compared).to_csv(index=False),
            "comparisons.csv": compare.comparisons_frame(compared).to_csv(index=False),
            **print_tables.files(study),
        }
        if not study.timings.empty:
            made["timings.csv"] = study.timings.to_csv(index=False)
        if not (widened := rate_curves_frame(study)).empty:
            made["rate_curves.csv"] = widened.to_csv(index=False)
        if checklist:
            made["checklist.md"] = checks.markdown(study, papers.ldm())
        if (study.frame["stage"] == "predictors").any():
            made["predictors.md"] = predictors.markdown(study)
        if page := shortlist.markdown(study):
            made["shortlist.md"] = page
        figures = finished()
    files = {name: text.encode() for name, text in made.items()}
    for name, figure in figures.items():
        files |= {f"{name}.{kind}": content for kind, content in figure.files.items()}
        if figure.planes:
            files[f"{name}.csv"] = numbers.frame(figure.planes).to_csv(index=False).encode()
    files["captions.md"] = numbers.captions({name: figure.words for name, figure in figures.items()}).encode()
    # Written when all is made, so that a run that is killed before leaves no new table beside old figures.
    written = [write_atomic(folder / name, content) for name, content in files.items()]
    shown = [write_atomic(folder / "pictures" / name, path.read_bytes()) for name, path in pictures(study)]
    gaps = {gap.label for gap in study.missing}
    said = list[str]()
    if study.differing:
        table = folder / "table.md"
        said.append(f"{len(study.differing)} artifacts have other results in another store: {table} names them")
    said.append(f"sweep {study.sweep}: {study.cells} cells, {len(study.frame)} rows, {len(gaps)} missing")
    if shown:
        said.append(f"{len(shown)} pictures of samples, reconstructions and others: {folder / 'pictures'}/")
    printed("\n".join(said))
    return Written(study, written, figures)


def check_writable(folder: Path) -> None:
    """Makes the folder. Raises: UserError where it cannot be written, before what is to lie in it is made."""
    handle, temporary = _new_file(folder, ".writable.")
    os.close(handle)
    Path(temporary).unlink()


def _new_file(folder: Path, prefix: str) -> tuple[int, str]:
    """An open file of another name in a folder, and its path. Raises: UserError where the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.mkstemp(dir=folder, prefix=prefix)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written ({error}): choose another folder with --out.") from error


def write_atomic(path: Path, content: bytes) -> Path:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Raises: UserError where the folder cannot be written.
    """
    handle, temporary = _new_file(path.parent, f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        # mkstemp makes private files; results are to be read like any other.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


@contextlib.contextmanager
def places_of(options: argparse.Namespace) -> Iterator[tuple[Stores, Path | None]]:
    """The stores that a command line reads, and the folder that it writes: of W&B's runs by default beside the store's.

    Raises: UserError where a project cannot be read.
    """
    stores = stores_of(options)
    if options.source == "store":
        yield stores, options.out
        return
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or stores[0] / "analysis" / "wandb" / options.project
        yield [pulled(options.project, Path(folder))], out


def _drawn(options: argparse.Namespace) -> list[Path]:
    """What `draw` writes for a command line."""
    with places_of(options) as (stores, out):
        return draw(
            stores,
            out,
            options.sweep,
            options.allow_mixed_protocols,
            options.overlay,
            options.checklist,
            options.against,
            options.metric,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; 0, or 2 with one sentence where the user can mend it."""
    options = parser().parse_args(arguments)
    try:
        written = _drawn(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return printed(f"written to {written[0].parent}: {', '.join(path.name for path in written)}")


if __name__ == "__main__":
    sys.exit(main())
