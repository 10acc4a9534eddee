"""The `flatscale` command: thin; everything heavy is imported where it is used."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.padding import Padding

from flatscale import __version__
from flatscale.cli.new_study import init
from flatscale.cli.options import (
    ConfigPath,
    LabelOption,
    PatternOption,
    ProfileOption,
    SetOption,
    StoreOption,
    StorePath,
)
from flatscale.errors import FlatscaleError

if TYPE_CHECKING:
    from flatscale.store.results import Store
    from flatscale.study.plan import TrialSpec
    from flatscale.study.schema import StudyConfig
    from flatscale.study.table_study import TableStudy

app = typer.Typer(
    name="flatscale",
    help="Large-scale correlation studies of flatness, sharpness and compression of neural "
    "networks. One YAML file describes a study; `flatscale run` trains and measures every network "
    "it describes and writes the report.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


class _Output(Console):
    """Goes quiet once nobody reads it any more: no study ends with its terminal or its pipe."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())


out = _Output(highlight=False)
err = _Output(stderr=True, highlight=False)


def main() -> None:
    """The command's entry point: what a user can mend is one message, without a traceback."""
    # Imports make objects and no garbage: looking for it after every 700 took a fifth of the time.
    gc.set_threshold(50_000)
    # What is left goes with the process: collecting it takes a second once torch is loaded.
    atexit.register(gc.freeze)
    try:
        app()
    except FlatscaleError as error:
        err.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("stopped")
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    handler = RichHandler(console=err, show_path=False, show_time=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("flatscale").setLevel(logging.INFO if verbose else logging.WARNING)
    # What goes wrong with MLflow is told by the tracking writer, once; MLflow reads this on import.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


app.command()(init)


@app.command()
def plan(
    config: ConfigPath,
    store: StoreOption = None,
    half_width: Annotated[
        float,
        typer.Option(help="Wanted half width of the primary r's interval.", min=0.001, max=0.999),
    ] = 0.1,
    time: Annotated[
        bool, typer.Option("--time", help="Run the first trial of each architecture, and estimate.")
    ] = False,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Show axes and trials, what is done, trained or measured only, disk, time and size needed.

    Nothing is executed without --time. The size comes from the variance between the trials done. Of
    networks that come with their weights: parameters, inputs, and the memory that each will take;
    --time measures three of them.
    """
    from flatscale.study.reading import load_config

    read = load_config(config, tuple(overrides or ()), profile)
    study, specs, results = _opened(read, store)
    from flatscale.cli.pilot import size_needed

    if study.only_measures:
        from flatscale.cli.zoo_plan import print_zoo

        print_zoo(out, study, specs, results, timed=time)
    else:
        from flatscale.cli.planning import print_plan

        print_plan(out, err, study, specs, results, timed=time)
    out.print(escape(size_needed(study, results, half_width)))


@app.command()
def run(
    config: ConfigPath,
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster: `auto` or `ray://host:port`; this machine by default."),
    ] = None,
    store: StoreOption = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="An MLflow tracking URI.", show_default="SQLite in the store"),
    ] = None,
    profile: ProfileOption = None,
    overrides: SetOption = None,
) -> None:
    """Run what is missing of a study, then write its statistics and report.

    The study of a table (`table:` instead of `models:`) is analysed: the report goes to --store.
    Stop it at any time with Ctrl-C: the same command continues from what is in the store.
    """
    out.print(f"study     {config}", soft_wrap=True)
    from flatscale.cli.progress import ProgressLine
    from flatscale.cluster.worker_forks import prepared_workers
    from flatscale.study.reading import load_study
    from flatscale.study.table_study import TableStudy

    # The file is read before torch is imported: what is wrong in it is said at once.
    read = load_study(config, tuple(overrides or ()), profile)
    if isinstance(read, TableStudy):
        _write_table_study(read, store or Path("runs") / read.name)
        return
    with ExitStack() as stack:
        if address is None and "RAY_ADDRESS" not in os.environ:
            # What workers import is imported while this process imports the same.
            stack.enter_context(prepared_workers(read.resources.threads_per_trial))
        study, specs, results = _opened(read, store)
        from flatscale.pipeline import run_study

        line = stack.enter_context(ProgressLine(out, results, specs))
        outcome = run_study(
            study, specs, results, address=address, tracking_uri=tracking_uri, listeners=[line]
        )
    statuses, num_kept = outcome.summary.statuses, outcome.summary.num_kept
    counts = ", ".join(f"{count} {name}" for name, count in sorted(statuses.items()))
    out.print(f"{len(specs)} trials: {counts} ({num_kept} from earlier runs)")
    out.print(f"results   {results.root}", soft_wrap=True)
    if outcome.tracking is not None:
        out.print(f"tracking  {escape(outcome.tracking)}", soft_wrap=True)
    if outcome.tracking_problem is not None:
        err.print(f"[yellow]tracking:[/] {escape(outcome.tracking_problem)}", soft_wrap=True)
    if outcome.report is None:
        err.print("stopped; the same command continues from here")
        raise typer.Exit(130)
    _print_answer(outcome.report)
    if statuses["failed"]:
        raise typer.Exit(1)


@app.command()
def status(store: StorePath) -> None:
    """Show how a study is going, while it runs or after: counts, failures, time left."""
    from flatscale.store.results import Store
    from flatscale.store.status import study_status

    now = study_status(Store(store))
    counts = ", ".join(f"{count} {name}" for name, count in sorted(now.counts.items()))
    out.print(f"planned     {now.num_planned} trials: {counts or 'none'}")
    state = f"{len(now.running)} running now" if now.alive else "no driver is running"
    out.print(f"driver      {state}")
    if now.trials_per_minute is not None:
        left = f", about {now.minutes_left:.1f} min left" if now.minutes_left is not None else ""
        out.print(f"throughput  {now.trials_per_minute:.1f} trials a minute{left}")
    if now.num_retried:
        out.print(f"retried     {now.num_retried} trials ended after more than one attempt")
    if now.num_waiting_for_tracking:
        out.print(f"tracking    {now.num_waiting_for_tracking} records wait for MLflow")
    for name, reason, count in now.reasons:
        out.print(f"{name:<11} {count} x {escape(reason)}", soft_wrap=True)


@app.command()
def report(store: StorePath) -> None:
    """Compute statistics and write the report again, from the store alone."""
    from flatscale.cli.progress import waiting_for

    with waiting_for(out, "statistics and report"):
        from flatscale.report import write_study_report

        paths = write_study_report(store)
    _print_answer(paths.page)


@app.command()
def analyze(
    table: Annotated[
        Path, typer.Argument(metavar="TABLE", help="A CSV or Parquet file, one row a network.")
    ],
    x: Annotated[str, typer.Option("--x", help="Column of the primary pair.")],
    y: Annotated[str, typer.Option("--y", help="Column of the primary pair.")],
    family: Annotated[str | None, typer.Option(help="Column of each row's family.")] = None,
    family_from: Annotated[
        str | None,
        typer.Option(help="Column of names whose beginning is the family, instead of --family."),
    ] = None,
    family_pattern: PatternOption = None,
    configuration: Annotated[
        str,
        typer.Option(help="Columns that replicates (seeds) agree in, with commas between."),
    ] = "",
    se_x: Annotated[str | None, typer.Option(help="Column of the standard error of x.")] = None,
    se_y: Annotated[str | None, typer.Option(help="Column of the standard error of y.")] = None,
    label: LabelOption = None,
    log: Annotated[str, typer.Option(help="Columns analysed as log10, with commas between.")] = "",
    covariate: Annotated[
        list[str] | None, typer.Option(help="Column held fixed in partial correlations; repeat.")
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option(help="Another table, joined by --on for its outcomes.")
    ] = None,
    outcome: Annotated[
        list[str] | None,
        typer.Option(help="Column taken as an outcome; repeat.", show_default="found, and listed"),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(help="Column(s) that name a network in both tables, with commas between."),
    ] = None,
    to: Annotated[Path, typer.Option("--out", help="Folder of the report.")] = Path("analysis"),
) -> None:
    """Correlate the columns of any table and write the report, as for a study.

    For example, timm's published results: `flatscale analyze results-imagenet.csv --x top1
    --y param_count --log param_count --family-from model`.
    """
    from flatscale.study.reading import parse_table_study

    joined = None if outcomes is None else {"path": str(outcomes), "by": _columns(on)}
    errors = {x: se_x, y: se_y}
    content = {
        "name": table.stem,
        "table": {
            "path": str(table),
            "family": family,
            "family_from": family_from,
            "family_pattern": family_pattern,
            "configuration": _columns(configuration),
            "label": _columns(label),
            "std_errors": {name: error for name, error in errors.items() if error is not None},
            "joined": joined,
        },
        "analysis": {
            "primary": [x, y],
            "log": _columns(log),
            "covariates": covariate or [],
            "outcomes": outcome or [],
        },
    }
    _write_table_study(parse_table_study(content, "the command"), to)


@app.command()
def metrics(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Only these.", show_default="all"),
    ] = None,
    plugin: Annotated[
        list[str] | None,
        typer.Option(help="A module whose metrics are listed too, as under `plugins:`; repeat."),
    ] = None,
) -> None:
    """List metrics with formula, the pass they need, invariances and source."""
    from flatscale.metrics import metric_catalog, metric_info
    from flatscale.study.registry import import_plugins

    import_plugins(plugin or ())
    asked = [metric_info(name) for name in names or ()]
    for info in asked or sorted(metric_catalog(), key=lambda known: known.group):
        out.print(f"[bold]{info.name}[/]{' (measured by default)' if info.default else ''}")
        lines = {
            "": info.meaning,
            "formula": info.formula,
            "group": info.group,
            "pass": ", ".join(info.passes),
            "unmoved by": ", ".join(info.invariances),
            "range": f"{info.value_range}, unit {info.unit}",
            "source": info.source,
        }
        for label, text in lines.items():
            if text:
                out.print(Padding(escape(f"{label}: {text}" if label else text), (0, 0, 0, 4)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the study file, for editors to complete and check it."""
    import json

    from flatscale.study.schema import json_schema

    out.file.write(json.dumps(json_schema(), indent=2) + "\n")


@app.command()
def ui(
    store: StorePath,
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = 5000,
) -> None:
    """Open the MLflow UI on the runs of a study, on 127.0.0.1."""
    from flatscale.cli.mlflow_page import serve

    serve(store, port, lambda line: out.print(line, soft_wrap=True))


def _opened(study: StudyConfig, store: Path | None) -> tuple[StudyConfig, list[TrialSpec], Store]:
    """A study with its zoo listed, its trials, and the store of its results."""
    if study.zoo is not None:
        from flatscale.cli.zoo_plan import with_zoo

        study = with_zoo(out, study)
    from flatscale.preflight import check_study
    from flatscale.store.results import Store

    return study, check_study(study), Store(store or Path("runs") / study.name)


def _write_table_study(study: TableStudy, to: Path) -> None:
    """The report of a table's study, and the study beside it."""
    from flatscale.cli.progress import waiting_for
    from flatscale.report import write_table_study

    with waiting_for(out, "statistics and report"):
        paths = write_table_study(study, to)
    _print_answer(paths.page)


def _print_answer(page: Path) -> None:
    """What the report found of the primary pair, in its own sentence, and where the report is."""
    import json

    findings = json.loads(page.with_name("findings.json").read_text(encoding="utf-8"))
    for sentence in findings["summary"]:
        if sentence.startswith("Found: "):
            pair = ", ".join(findings["primary"])
            found = sentence.removeprefix("Found: ")
            out.print(f"found     {escape(pair)}: {escape(found)}", soft_wrap=True)
    out.print(f"report    {page}", soft_wrap=True)


def _columns(listed: str | None) -> list[str]:
    return [part.strip() for part in (listed or "").split(",") if part.strip()]


if __name__ == "__main__":
    main()
