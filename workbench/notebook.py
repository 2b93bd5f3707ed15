"""What the notebooks share: values from the command line, a gate, results that are kept, tables, figures.

A notebook is read in three places. marimo shows it in a browser; a script runs it and prints its key number; a report
is written from what its cells showed (`workbench.notebook_report`). So what a cell shows is a marimo object, and what
only one of the three needs is told apart here: figures become a frame of their own for marimo, whose pages do not load
Bokeh's scripts, and a mere place in a report, which has them once.
"""

from __future__ import annotations

import contextvars
import functools
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import marimo as mo
import polars as pl
from bokeh.embed import file_html
from bokeh.layouts import column
from bokeh.resources import INLINE

from megacontext.errors import ConfigError
from megacontext.runtime.run import RunFolder
from workbench.keeping import KeptRun, kept_run
from workbench.plots.style import Plot, figure_of
from workbench.stores.memory import MemoryStore
from workbench.stores.run import RunStore

if TYPE_CHECKING:
    from megacontext.train.trainers import Kind

_PADDING_PX = 40
SWITCHES = ("runs", "tiny", "anew")
"""Arguments of every notebook: the folder of runs, its smallest size, nothing kept."""

T = TypeVar("T")


@dataclass
class Showing:
    """What a notebook showed and used, for whoever writes its report."""

    arguments: dict[str, Any] = field(default_factory=dict)
    figures: list[Sequence[Plot]] = field(default_factory=list)
    runs: list[KeptRun] = field(default_factory=list)


_showing: Showing | None = None
_taken: ContextVar[dict[str, Any] | None] = ContextVar("_taken", default=None)
"""Arguments in a thread of our own, where marimo does not tell them."""


@contextmanager
def collected() -> Iterator[Showing]:
    """While it lasts, notebooks of this process tell what they show."""
    global _showing
    _showing = Showing()
    try:
        yield _showing
    finally:
        _showing = None


def arguments(tiny: Mapping[str, int | float | str] | None = None, **defaults: Any) -> dict[str, Any]:
    """The defaults, or what `python NOTEBOOK.py --name value` gave for them, of the default's type.

    `tiny` replaces defaults under `--tiny`, and under pytest, whose own arguments are not ours: the smallest size at
    which the notebook still says something. Raises ConfigError for a name that is none of these, or a value that is
    not of its type.
    """
    given = _given()
    if "tiny" in given:
        defaults |= tiny or {}
    if unknown := sorted(set(given) - {*defaults, *SWITCHES}):
        raise ConfigError(
            f"this notebook takes --{', --'.join([*defaults, *SWITCHES])}, got --{', --'.join(unknown)}; leave it out"
        )
    values = {name: _typed(name, given.get(name, value), type(value)) for name, value in defaults.items()}
    if _showing is not None:
        _showing.arguments = dict(values)
    return values


def sent(form: Any, default: Mapping[str, Any]) -> dict[str, Any]:
    """The gate before slow work: in a browser it waits for the form; a script or an export takes the defaults."""
    mo.stop(form.value is None and mo.app_meta().request is not None, mo.md("*Send the form to begin.*"))
    return dict(default) | (form.value or {})


def kept(notebook: str | Path, config: Any, work: Callable[[RunFolder], object], seed: int = 0) -> Path:
    """The folder of the finished run of `config`: found as it was kept, or else written by `work`.

    See `keeping.kept_run`. `--runs` says where runs are kept.
    """

    def make(runs: Path, name: str) -> Path:
        with RunFolder.create(runs, name, config, kind=Path(notebook).stem, seed=seed) as run:
            work(run)
        return run.path

    return _kept(notebook, config, make)


def kept_training(notebook: str | Path, kind: Kind, config: Any) -> Path:
    """The same for a training of that kind, as `train.trainers.load_training` names it; its model lies in the run."""
    from megacontext.train.trainers import Order  # here: it brings torch, which takes seconds

    return _kept(notebook, config, lambda runs, name: kind.train(config, Order(runs=runs, name=name)).run)


def given_run(path: str | Path) -> RunStore:
    """A run that somebody else made, opened to be shown; a report names it among what it was drawn from."""
    store = RunStore(path)
    if _showing is not None:
        recipe = str(store.info.raw.get("recipe_fingerprint", "–"))
        _showing.runs.append(KeptRun(store.path, recipe, "as it was given", found=True))
    return store


@functools.cache
def memory_of(path: Path) -> MemoryStore:
    """A kept run's memory. A process opens one once, however often a cell runs and however many look at it."""
    return MemoryStore(path)


def newest_run(notebook: str | Path) -> RunStore | None:
    """The run that this notebook began last, finished or not, to be looked at as it grows; None before the first."""
    name = Path(notebook).stem.replace("_", "-")
    begun = [path for path in runs_folder().glob(f"{name}*") if (path / "run.json").is_file()]
    return RunStore(max(begun, key=lambda path: (path / "recipe.toml").stat().st_mtime)) if begun else None


def runs_folder() -> Path:
    """Where the runs of notebooks are: `--runs`, else `runs`, as for every command; under pytest a passing folder."""
    if _under_pytest():
        return Path(_passing_folder().name)
    folder = Path(str(_given().get("runs") or "runs"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def watched(work: Callable[[], T], look: Callable[[], Any], every_s: float = 1.0) -> T:
    """Do slow work in a thread, and show what `look` returns in the cell's place every so many seconds, and at the end.

    Where nobody looks (a script, an export, a test) the work is simply done. What the work raises is raised.
    """
    if mo.app_meta().request is None:
        return work()
    outcome: list[Any] = []

    def do() -> None:
        try:
            outcome.append(work())
        except BaseException as problem:
            outcome.append(problem)

    around = contextvars.copy_context()
    around.run(_taken.set, _given())
    thread = threading.Thread(target=around.run, args=(do,), daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(every_s)
        mo.output.replace(look())
    (result,) = outcome
    if isinstance(result, BaseException):
        raise result
    return result


def shown(frame: pl.DataFrame, digits: int = 4) -> mo.ui.table:
    """A table of a frame as it is, numbers to so many significant digits."""
    floats = [name for name, dtype in frame.schema.items() if dtype.is_float()]
    rounded = frame.with_columns(pl.col(name).round_sig_figs(digits) for name in floats)
    return mo.ui.table(
        rounded, selection=None, pagination=False, show_column_summaries=False, show_download=False
    )


def offline(*elements: Plot) -> mo.Html:
    """Plots one above another, as a frame that needs nothing from elsewhere; in a report, their place.

    Figures that belong together should go into one call: the scripts that a frame brings along weigh more than 1 MB.
    """
    if _showing is not None:
        _showing.figures.append(elements)
        return mo.Html(f'<div data-figures="{len(_showing.figures) - 1}"></div>')
    figures = [figure_of(element) for element in elements]
    page = file_html(column(*figures, sizing_mode="stretch_width"), INLINE, title="figures")
    return mo.iframe(page, height=f"{sum(figure.height or 300 for figure in figures) + _PADDING_PX}px")


def _kept(notebook: str | Path, config: Any, make: Callable[[Path, str], Path]) -> Path:
    run = kept_run(Path(notebook), config, make, runs_folder(), anew="anew" in _given())
    if _showing is not None:
        _showing.runs.append(run)
    return run.path


def _given() -> dict[str, Any]:
    """Arguments of this notebook. A bare `--` before them, as for marimo's own commands, says nothing."""
    if _under_pytest():
        return {"tiny": ""}
    if (taken := _taken.get()) is not None:
        return taken
    return {str(name): value for name, value in mo.cli_args().to_dict().items() if name}


def _typed(name: str, value: object, kind: type) -> object:
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise ConfigError(f"--{name} must be of type {kind.__name__}, got {value!r}; mend it") from None


def _under_pytest() -> bool:
    return "pytest" in sys.modules


@functools.cache
def _passing_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="notebooks-")
