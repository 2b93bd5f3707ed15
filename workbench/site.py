"""A folder of all reports with an index: what was found, by which notebook and which run, to be read without a network.

Notebooks are run for it, or found as they were kept; the reports of runs are drawn anew from what the runs hold. A run
that cannot be read is named with the reason and has no page.
"""

from __future__ import annotations

from pathlib import Path

from megacontext.errors import ConfigError
from workbench.notebook_commands import carried_out, export_orders
from workbench.notebook_runner import Outcome, find_notebooks
from workbench.report import render
from workbench.sheet import sheet, write_whole
from workbench.stores.catalogue import Catalogue, CatalogueRow
from workbench.stores.run import RunStore
from workbench.text import duration, plain

INDEX = "index.html"


def write_site(folder: Path, runs: Path, *, tiny: bool = False, jobs: int = 0) -> Path:
    """Write all reports and the index into `folder`, which is made; the index's path.

    Raises ConfigError for a notebook that fails; the pages written by then stay, the index is not written.
    """
    switches = ("--tiny",) if tiny else ()
    arguments = (*switches, "--runs", str(runs.resolve()))
    outcomes = carried_out(export_orders(find_notebooks(()), folder / "notebooks", arguments), jobs)
    for outcome in outcomes:
        if outcome.state == "failed":
            raise ConfigError(
                f"a site needs all notebooks, {outcome.notebook} failed; it says: {outcome.message}"
            )
    rows = Catalogue(runs).rows()
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.state != "damaged":
            write_whole(folder / "runs" / f"{row.name}.html", render(RunStore(runs / row.name)))
    page = {
        "title": "MegaContext · reports",
        "notebooks": [_notebook(outcome) for outcome in outcomes],
        "runs": [_run(row) for row in rows],
    }
    return write_whole(folder / INDEX, sheet("site.html.j2", page, {}))


def _notebook(outcome: Outcome) -> dict[str, object]:
    return {
        "link": f"notebooks/{outcome.notebook}.html",
        "title": plain(outcome.title, 120),
        "question": plain(outcome.question, 600),
        "said": plain(outcome.said, 300),
    }


def _run(row: CatalogueRow) -> dict[str, object]:
    return {
        "link": None if row.state == "damaged" else f"runs/{row.name}.html",
        "name": plain(row.name, 120),
        "kind": plain(row.kind, 60),
        "state": row.state,
        "started": "–" if row.started is None else f"{row.started:%d %B %Y, %H:%M} UTC",
        "took": duration(row.took_s),
        "said": plain(row.said, 300),
    }
