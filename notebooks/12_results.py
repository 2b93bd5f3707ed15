import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="12 · Results, made from runs")

with app.setup:
    from pathlib import Path

    import marimo as mo
    import polars as pl

    from megacontext.errors import ConfigError
    from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
    from workbench.notebook import arguments, given_run, kept, offline, sent, shown
    from workbench.plots import accuracy_bars, intervals
    from workbench.stores.catalogue import Catalogue
    from workbench.stores.findings import estimates
    from workbench.stores.run import RunStore

    CLAIM = 200
    """Questions of a cell below which a figure is a smoke test."""
    ARMS = ("none", "recency", "random", "bm25", "lensnet", "oracle")


@app.function
def evaluated(suite, asked):
    """A small run of one suite, made here or found as it was kept."""
    sizes = {"variants": (16,)} if suite == "mqar" else {"lengths": (4096,)}
    if suite == "variables":
        sizes["variants"] = (2,)
    config = EvalConfig(suite=suite, seeds=(asked["seed"],), n=asked["n"], arms=ARMS, **sizes)
    return kept(__file__, config, lambda run: run_suite(prepare(config), run), asked["seed"])


@app.function
def readable(folder):
    """Finished runs with results in a folder, the oldest first. Raises ConfigError where there is none."""
    rows = [row for row in Catalogue(folder).rows() if row.state == "done"]
    paths = [Path(folder) / row.name for row in reversed(rows)]
    found = [path for path in paths if (path / "results.json").is_file()]
    if not found:
        raise ConfigError(
            f"a results page needs finished runs, {folder} has none; make one with `megacontext eval needles`, or "
            "leave --folder out"
        )
    return found


@app.function
def cells_of(stores):
    """Every arm of every cell of questions in the runs."""
    frames = [
        store.rows().with_columns(
            run=pl.lit(store.name), suite=pl.lit(str(store.recipe.get("suite", store.info.kind)))
        )
        for store in stores
        if len(store.rows())
    ]
    return pl.concat(frames) if frames else pl.DataFrame()


@app.function
def against(cells, arm, other):
    """Cells in which one arm's interval lies above, below, or across that of another."""
    mine = cells.filter(pl.col("arm") == arm).select("run", "history", "low", "high")
    its = cells.filter(pl.col("arm") == other).select("run", "history", "low", "high")
    both = mine.join(its, on=["run", "history"], suffix="_other")
    above = both.filter(pl.col("low") > pl.col("high_other")).height
    below = both.filter(pl.col("high") < pl.col("low_other")).height
    return {
        "arm": arm,
        "against": other,
        "above": above,
        "below": below,
        "undecided": both.height - above - below,
    }


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 12 · Results, made from runs

    **Question.** What do the runs in a folder say, all together, and what do they not say?

    **Claim.** At the same budget of positions LensNet's context answers no worse than the newest blocks or random ones
    in any task, and better where one place in a text that is longer than the budget holds the answer.

    **Cost.** CPU: seconds for a folder that is given (`--folder runs`); about a minute for the small runs that are made
    where none is.

    **What would prove us wrong.** A cell in which LensNet's interval lies below that of recency or random blocks.
    Nothing on this page is typed in: a run that is not in the folder has no say, one of fewer than 200 questions a cell
    is marked a smoke test.
    """)
    return


@app.cell
def controls():
    default = arguments(
        dict(n=8, suites="needles"), folder="", suites="needles,facts,variables,mqar", n=24, seed=0
    )
    form = (
        mo.md("Folder of runs {folder} · or make suites {suites} with {n} questions a cell · seed {seed}")
        .batch(
            folder=mo.ui.text(value=default["folder"]),
            suites=mo.ui.text(value=default["suites"]),
            n=mo.ui.number(4, 1000, value=default["n"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Read the runs")
    )
    form
    return default, form


@app.cell
def reading(default, form):
    asked = sent(form, default)
    with mo.status.spinner("reading runs, or making them"):
        if asked["folder"]:
            stores = [given_run(path) for path in readable(asked["folder"])]
        else:
            made = [evaluated(suite, asked) for suite in asked["suites"].split(",")]
            stores = [RunStore(path) for path in made]
    return (stores,)


@app.cell
def what_was_read(stores):
    listed = pl.DataFrame(
        {
            "run": [store.name for store in stores],
            "kind": [store.info.kind for store in stores],
            "recipe": [str(store.info.raw.get("recipe_fingerprint", "")) for store in stores],
            "it says": [(store.sentences or ["–"])[0][:160] for store in stores],
        }
    )
    mo.vstack([mo.md("## What was read"), shown(listed)])
    return


@app.cell
def questions(stores):
    cells = cells_of(stores)
    mo.stop(cells.is_empty(), mo.md("*None of the runs asked questions.*"))
    parts = [mo.md("## Questions, at equal budget")]
    for (_run, _history), _rows in cells.group_by(["run", "history"], maintain_order=True):
        _asked = _rows["n"].max()
        _note = "" if _asked >= CLAIM else f", a smoke test (a claim needs {CLAIM})"
        parts += [
            mo.md(f"**{_rows['suite'][0]} · {_history}** (run {_run}), {_asked} questions an arm{_note}"),
            offline(accuracy_bars(_rows)),
        ]
    mo.vstack(parts)
    return (cells,)


@app.cell
def means(stores):
    charts = [(store.name, one) for store in stores for one in estimates(store)]
    mo.stop(not charts, mo.md("*None of the runs measured means (delta-NLL, audits, gists).*"))
    mo.vstack(
        [
            mo.md("## Means, with 95 % intervals"),
            *(
                mo.vstack(
                    [
                        mo.md(f"**{one.title}** (run {name}). {one.note}"),
                        offline(intervals(one.frame, one.axis)),
                    ]
                )
                for name, one in charts
            ),
        ]
    )
    return


@app.cell
def comparison(cells):
    others = ("recency", "random", "bm25", "oracle")
    counted = pl.DataFrame([against(cells, "lensnet", other) for other in others])
    mo.vstack(
        [
            mo.md("## LensNet against the others: in how many cells do the intervals lie apart?"),
            shown(counted),
        ]
    )
    return (counted,)


@app.cell
def answer(cells, counted, stores):
    verdict = {row["against"]: row for row in counted.to_dicts()}
    smoke = cells.filter(pl.col("n") < CLAIM).select("run", "history").n_unique()
    total = cells.select("run", "history").n_unique()
    mo.md(f"""
    ## Answer

    Runs read: {len(stores)}; cells of questions: {total}, of which {smoke} are smoke tests.

    - LensNet against the newest blocks: above in {verdict["recency"]["above"]} cells, below in
      **{verdict["recency"]["below"]} cells**.
    - Against random blocks: above in {verdict["random"]["above"]}, below in **{verdict["random"]["below"]} cells**.
    - Against BM25: above in {verdict["bm25"]["above"]}, below in {verdict["bm25"]["below"]}, undecided in
      {verdict["bm25"]["undecided"]} cells.
    - Against the oracle: below in {verdict["oracle"]["below"]} cells.

    What was measured for claims, and how: the vault's notes [Results](../obsidian/results/Results.md) and
    [Evaluations](../obsidian/results/Evaluations.md).
    """)
    return total, verdict


@app.cell
def test_lensnet_is_never_below_what_knows_nothing(total, verdict):
    assert verdict["recency"]["below"] == 0 and verdict["random"]["below"] == 0, verdict
    print(
        {"cells": total, "above_recency": verdict["recency"]["above"], "below_bm25": verdict["bm25"]["below"]}
    )
    return


if __name__ == "__main__":
    app.run()
