"""The dashboard of a project as code: one list of parts, shown as a workspace and as a report of W&B.

Both show runs of finished cells, grouped by `repetition_of`, so that the only runs that are averaged differ in seeds
alone. Which metrics there are is read from the records of the store that the runs come from.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import wandb
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr
from wandb_workspaces import workspaces as ws

from experiments.tracking.runs import CELL
from experiments.tracking.wandb_runs import as_sentence, check_login
from ldm.records import GENERATION, RATE, RECONSTRUCTION, ResultRow, StageRecord

NAME = "Latent spaces compared"
"""What the workspace and the report are called."""

VIEW = "ldmtradeoffs"
"""The name of the workspace in its address: saving it again writes over it."""

NO_WORKSPACE = "not found in project"
"""How W&B says that a project has no workspace of a name."""

SAME = "repetition_of"
"""The value of a run's config that runs share which differ in seeds alone."""

CELLS, TRAININGS, MILESTONES = (CELL,), ("diffusion",), ("progress",)
"""The kinds of runs that parts show."""

SPEED = "samples/images_per_second"


@dataclass(frozen=True)
class Shown:
    """A metric of runs: `key` in their summary and history, `title` for axes, `group` as in its rows."""

    key: str
    title: str
    group: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Part:
    """Panels under one title, which say something of the runs of some kinds; `text` says what to look for."""

    title: str
    text: str
    kinds: tuple[str, ...]
    panels: Sequence[Any]


def metrics_of(records: Iterable[StageRecord]) -> list[Shown]:
    """The metrics of samples, reconstructions, rates and milestones that may stand in a figure, each once."""
    found = {}
    for record in records:
        for row in record.rows:
            if _is_shown(record.stage, row):
                unit = f" ({row.unit})" if row.unit else ""
                key = f"{record.stage}/{row.metric}"
                found[key] = Shown(key, f"{row.title or row.metric}{unit}", row.group, row.higher_is_better)
    return list(found.values())


def _is_shown(stage: str, row: ResultRow) -> bool:
    of = {"evaluation": (GENERATION,), "progress": (GENERATION,), "reconstruction": (RECONSTRUCTION, RATE)}
    is_large = row.headline_from is not None and row.n >= row.headline_from
    return row.group in of.get(stage, ()) and not row.variant and is_large


def parts(metrics: Sequence[Shown]) -> list[Part]:
    """All parts, in the order in which they are read."""
    quality = [metric for metric in metrics if metric.key.startswith("evaluation/")]
    distortions = [metric for metric in metrics if metric.group == RECONSTRUCTION]
    rates = [metric for metric in metrics if metric.group == RATE]
    milestones = [metric for metric in metrics if metric.key.startswith("progress/")]
    return [
        Part(
            "Quality against f",
            "Points are cells, of several seeds their means; bars have the standard error over seeds.",
            CELLS,
            [panel for metric in quality for panel in (_against("f", "downsampling factor f", metric), _bars(metric))],
        ),
        Part(
            "Quality against speed",
            "Images a second of denoising and decoding.",
            CELLS,
            [_scatter(wr.SummaryMetric(SPEED), "images a second", metric, log_x=True) for metric in quality],
        ),
        Part(
            "Quality against training",
            "Milestones of each training, sampled in one cheap way: their values are no final ones.",
            MILESTONES,
            [_curve(metric.key, metric.title) for metric in milestones],
        ),
        Part(
            "Training",
            "Losses stand in runs that were tracked while they trained, not in those that were pushed from a store.",
            TRAININGS,
            [_curve("loss", "loss of the denoiser"), _curve("images_per_second", "images a second")],
        ),
        Part(
            "Rate and distortion",
            "Each regulariser has a rate of its own.",
            CELLS,
            [_scatter(wr.SummaryMetric(rate.key), rate.title, metric) for rate in rates for metric in distortions],
        ),
        Part("All axes", "One line is one cell.", CELLS, [_parallel(quality)]),
        Part("Pictures", "Samples from the same noise, and reconstructions.", CELLS, _pictures()),
    ]


def _direction(metric: Shown) -> str:
    ends = {None: "", True: ", higher is better", False: ", lower is better"}
    return metric.title + ends[metric.higher_is_better]


def _scatter(x: Any, title_x: str, metric: Shown, log_x: bool = False) -> Any:
    title = f"{_direction(metric)}, against {title_x}"
    return wr.ScatterPlot(title=title, x=x, y=wr.SummaryMetric(metric.key), log_x=log_x)


def _against(axis: str, title_x: str, metric: Shown) -> Any:
    return _scatter(wr.Config(axis), title_x, metric, log_x=True)


def _bars(metric: Shown) -> Any:
    return wr.BarPlot(
        title=f"{_direction(metric)}, over seeds",
        metrics=[wr.SummaryMetric(metric.key)],
        groupby=wr.Config(SAME),
        groupby_aggfunc="mean",
        groupby_rangefunc="stderr",
        max_bars_to_show=100,
    )


def _curve(key: str, title: str) -> Any:
    return wr.LinePlot(
        title=title,
        x="images_seen",
        y=[key],
        title_x="images seen",
        log_x=True,
        groupby=wr.Config(SAME),
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_runs_to_show=100,
    )


def _parallel(quality: Sequence[Shown]) -> Any:
    column = wr.ParallelCoordinatesPlotColumn
    axes = ("regulariser", "f", "channels", "sampler", "steps", "guidance_scale")
    return wr.ParallelCoordinatesPlot(
        title="Cells",
        columns=[
            *(column(wr.Config(axis), log=axis in ("f", "steps")) for axis in axes),
            column(wr.SummaryMetric(SPEED), display_name="images a second", log=True),
            *(column(wr.SummaryMetric(metric.key), display_name=metric.title) for metric in quality),
        ],
    )


def _pictures() -> list[Any]:
    shown = {"grid": "samples", "reconstructions": "reconstructions", "nearest": "nearest training images"}
    return [wr.MediaBrowser(title=title, media_keys=[key], num_columns=4) for key, title in shown.items()]


def save_workspace(project: str, entity: str | None, metrics: Sequence[Shown]) -> str:
    """Writes the workspace of a project over the one that was saved before, if any; its address.

    Raises: UserError where nobody has logged in, or the server does not take it.
    """
    check_login("the workspace is uploaded")
    shown = [part for part in parts(metrics) if part.panels]
    kinds = sorted({kind for part in shown for kind in part.kinds})
    with as_sentence("W&B does not take the workspace"):
        owner = entity or str(wandb.Api().default_entity)
        made = ws.Workspace(
            entity=owner,
            project=project,
            name=NAME,
            sections=[ws.Section(name=part.title, panels=list(part.panels), is_open=True) for part in shown],
            runset_settings=ws.RunsetSettings(filters=_only(kinds), groupby=[expr.Config(SAME)]),
            auto_generate_panels=False,
        )
        _take_place(made)
        return str(made.save().url)


def _only(kinds: Iterable[str]) -> str:
    """A filter of W&B that runs of these kinds pass."""
    return f"Metric('JobType') in [{', '.join(repr(kind) for kind in kinds)}]"


def _take_place(made: ws.Workspace) -> None:
    """Gives a workspace the name and id of the one that was saved before: W&B names new ones by chance."""
    made._internal_name = f"nw-{VIEW}-v"
    try:
        saved = ws.Workspace.from_url(f"https://wandb.ai/{made.entity}/{made.project}?nw={VIEW}")
    except ValueError as error:
        if NO_WORKSPACE not in str(error):
            raise
    else:
        made._internal_id = saved._internal_id


def save_report(project: str, entity: str | None, metrics: Sequence[Shown]) -> str:
    """Writes the report of a project over the one of this name, if any; its address.

    Raises: UserError where nobody has logged in, or the server does not take it.
    """
    check_login("the report is uploaded")
    with as_sentence("W&B does not take the report"):
        api = wandb.Api()
        owner = entity or str(api.default_entity)
        report = wr.Report(
            project=project,
            entity=owner,
            title=NAME,
            description="Figures of finished runs; seeds alone are averaged over.",
            width="fluid",
            blocks=[block for part in parts(metrics) if part.panels for block in _blocks(part, owner, project)],
        )
        for found in api.reports(f"{owner}/{project}"):
            if found.display_name == NAME:
                report.id = found.id
        return str(report.save().url)


def _blocks(part: Part, entity: str, project: str) -> list[Any]:
    runs = wr.Runset(
        entity=entity,
        project=project,
        name=" and ".join(part.kinds),
        filters=_only(part.kinds),
        groupby=[f"config.{SAME}"],
    )
    return [wr.H2(part.title), wr.P(part.text), wr.PanelGrid(runsets=[runs], panels=list(part.panels))]
