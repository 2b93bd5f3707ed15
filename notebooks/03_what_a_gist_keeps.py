import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="03 · What a gist keeps")

with app.setup:
    from dataclasses import dataclass

    import marimo as mo
    import polars as pl

    from megacontext.evals.histories import history_of_books, stored
    from megacontext.evals.language_windows import PROSE
    from megacontext.evals.substitutability import (
        SubstitutabilityConfig,
        prepare_substitutability,
        run_substitutability,
    )
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.runtime.session import FocusConfig
    from megacontext.train.trainers import load_training
    from workbench.notebook import arguments, kept, kept_training, memory_of, offline, sent, shown
    from workbench.plots import gist_scatter, intervals, lines
    from workbench.stores.findings import estimates
    from workbench.stores.projection import GISTS, project, sources
    from workbench.stores.run import RunStore

    SLOTS = (1, 2, 4)
    BOOKS = ("emma", "persuasion", "pride-and-prejudice", "sense-and-sensibility")


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Whose gists are laid out."""

    model: str = "tiny"
    books: tuple[str, ...] = BOOKS
    tokens_each: int = 12_000


@app.function
def remember(config, run):
    """The books in a memory, in the run's folder."""
    bundle = Bundle.load(model_folder(config.model))
    case, told = stored(
        history_of_books(config.books, config.tokens_each, bundle.tokenizer), FocusConfig(), bundle, run
    )
    case.session.memory.close()
    run.results({"ingest": [told]})


@app.function
def slots_training(slots, asked):
    """A net of so many vectors a gist, trained to have the frozen base say the block again from them alone."""
    stage = {
        "name": "say", "steps": asked["steps"], "batch": 8, "min_blocks": 1, "max_blocks": 1, "raw_tokens": 64,
        "scored_tokens": 32, "weights": {"reconstruction": 1.0}, "lr": 5e-3,
    }  # fmt: skip
    changes = {"seed": asked["seed"], "gistnet.slots": slots, "stages": [stage]}
    return load_training("tiny-gists", changes)


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 03 · What a gist keeps

    **Question.** When 32 tokens are folded into one vector, what is left of them: for the tokens that come next, among
    the gists of other texts, and word for word?

    **Claim.** In the tiny model that ships: little. By the usual measure nearly every span of prose can be folded;
    but it costs as little to leave the span out, or to put the gist of another text in its place, so the measure
    says that these tokens were not needed and not that the gist holds them. Word for word more vectors say more.
    That is why detail is found by opening a block, and not by remembering harder.

    **Cost.** CPU, about 40 s at the size below.

    **What would prove us wrong.** Spans that their gist can stand for and nothing else can: a gist clearly better than
    nothing, or than one of another text; or four vectors that say a block no better than one.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(n=8, steps=4, tokens=3000), n=24, steps=60, tokens=12_000, seed=0)
    form = (
        mo.md(
            "Spans of each level {n} · steps of each training {steps} · tokens of each book {tokens} · seed {seed}"
        )
        .batch(
            n=mo.ui.number(4, 1000, value=default["n"]),
            steps=mo.ui.number(2, 2000, value=default["steps"]),
            tokens=mo.ui.number(2048, 200_000, step=1000, value=default["tokens"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Fold")
    )
    form
    return default, form


@app.cell
def folding(default, form):
    asked = sent(form, default)
    spans = SubstitutabilityConfig(genres=(PROSE,), n=asked["n"], seed=asked["seed"])
    with mo.status.spinner("folding spans"):
        folded = RunStore(
            kept(
                __file__,
                spans,
                lambda run: run_substitutability(prepare_substitutability(spans), run),
                spans.seed,
            )
        )
    return asked, folded


@app.cell
def standing_in(folded):
    (found,) = estimates(folded)
    cells = pl.DataFrame(
        [
            {
                "span": cell["cell"],
                "in its place": cell["in_place"],
                "nats a token more": cell["delta"]["mean"],
                "under 1 nat a token": cell["substitutable"],
                "under 1 nat in all": cell["wholly"],
                "spans": cell["spans"],
            }
            for cell in folded.results["cells"]
        ]
    )
    mo.vstack(
        [
            mo.md("""
            ## Standing in for a span

            A span in the midst of plain tokens, replaced and nothing else changed: by its gist, by the mean of its
            embeddings, by a gist of another text, by nothing. Nats a token more on 32 tokens behind 64 raw ones."""),
            offline(intervals(found.frame, found.axis)),
            shown(cells, 3),
        ]
    )
    return (cells,)


@app.cell
def space(asked):
    config = SpaceConfig(tokens_each=asked["tokens"])
    with mo.status.spinner("making gists of four novels"):
        laid = kept(__file__, config, lambda run: remember(config, run))
    memory = memory_of(laid / "memory" / "books-0")
    version = next(version for of, version in sources(memory) if of == GISTS)
    projected = project(memory, GISTS, version, 1, "notebook")
    projected.wait(120)
    view = projected.result
    mo.vstack(
        [
            mo.md(f"""
            ## Among one another

            {len(view.points):,} gists of single blocks on their first two principal components, a colour a novel
            ({" · ".join(BOOKS)}). The novels lie among one another: a gist does not tell which book its block is
            of."""),
            offline(gist_scatter(view.points, explained=view.explained, height_px=420)),
        ]
    )
    return (view,)


@app.cell
def variety_of(folded):
    kept_apart = pl.DataFrame(folded.results["diversity"]).select(
        pl.col("cell").alias("span"),
        "vectors",
        pl.col("cosine").alias("cosine of two"),
        pl.col("effective_rank").alias("effective rank"),
        pl.col("most").alias("of at most"),
    )
    mo.vstack([mo.md("How different they are, beside the means of the same spans:"), shown(kept_apart, 3)])
    return


@app.cell
def slots(asked):
    with mo.status.spinner("training nets of one, two and four vectors"):
        runs = {slots: RunStore(kept_training(__file__, *slots_training(slots, asked))) for slots in SLOTS}
    said = pl.DataFrame(
        [
            {
                "vectors a gist": slots,
                "positions for 32 tokens": slots,
                "nats a token at first": run.results["metrics"]["say_reconstruction_first"],
                "nats a token at last": run.results["metrics"]["say_reconstruction_last"],
            }
            for slots, run in runs.items()
        ]
    )
    mo.vstack(
        [
            mo.md(f"""
            ## Word for word

            A new net over the frozen base, {asked["steps"]} steps for each number of vectors: from these alone the
            base is asked for the block's own tokens. Cross-entropy on blocks as they come, each seen for the first
            time."""),
            offline(
                lines(
                    said.select(
                        pl.lit("last steps").alias("series"), pl.col("vectors a gist").alias("x"),
                        pl.col("nats a token at last").alias("y"),
                    ),
                    x_label="vectors a gist", y_label="nats a token", x_format="0.[0]", y_format="0.000",
                )
            ),
            shown(said, 4),
        ]
    )  # fmt: skip
    return (said,)


@app.cell
def answer(cells, said):
    fine = {row["in its place"]: row for row in cells.to_dicts() if row["span"].endswith("LOD1")}
    one, *_, four = said["nats a token at last"].to_list()
    shortfall = fine["nothing"]["nats a token more"] - fine["gist"]["nats a token more"]
    mo.md(f"""
    ## Answer

    As a gist {fine["gist"]["under 1 nat a token"]:.0%} of {fine["gist"]["spans"]} spans of 32 tokens cost less than a
    nat a token; left out, {fine["nothing"]["under 1 nat a token"]:.0%} do: the usual measure says little of gists. In
    nats a gist is **{shortfall:+.3f}** a token better than nothing and
    {fine["wrong"]["nats a token more"] - fine["gist"]["nats a token more"]:+.3f} better than a gist of another text.
    Word for word, four vectors say a block at {four:.2f} nats a token, one at {one:.2f}
    (**{one - four:+.2f}** for three positions more). Longer trainings and other kinds of gists: the vault's notes
    [Embedding gists](../obsidian/architecture/Embedding%20gists.md) and [Gists](../obsidian/architecture/Gists.md).
    """)
    return fine, four, one


@app.cell
def test_most_spans_can_be_folded_and_it_matters_little_into_what(fine):
    assert fine["gist"]["under 1 nat a token"] >= 0.75, fine
    assert abs(fine["wrong"]["nats a token more"] - fine["gist"]["nats a token more"]) < 0.1, fine
    return


@app.cell
def test_more_vectors_say_more(asked, fine, four, one):
    # After a few steps neither net has learnt to say anything.
    assert four < one or asked["steps"] < 40, (four, one)
    print(
        {"substitutable": fine["gist"]["under 1 nat a token"], "one": round(one, 3), "four": round(four, 3)}
    )
    return


if __name__ == "__main__":
    app.run()
