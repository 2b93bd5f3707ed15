import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="06 · Positions in a mixed context")

with app.setup:
    from dataclasses import dataclass, replace
    from typing import get_args

    import marimo as mo
    import numpy as np
    import polars as pl

    from megacontext.evals.evaluation import EvalConfig, prepare, run_suite
    from megacontext.evals.language_windows import PROSE
    from megacontext.evals.substitutability import (
        SubstitutabilityConfig,
        prepare_substitutability,
        run_substitutability,
    )
    from megacontext.models.positions import PositionPolicy, entry_positions
    from megacontext.runtime.bundle import Bundle, model_folder
    from workbench.notebook import arguments, kept, offline, sent, shown
    from workbench.plots import intervals, lines
    from workbench.stores.run import RunStore

    POLICIES = get_args(PositionPolicy)


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A model that is told to read by another policy than the one it was trained by."""

    model: str = "tiny"
    positions: PositionPolicy = "context"


@app.function
def told_otherwise(config, run):
    """The same weights with another policy, in the run's folder."""
    bundle = Bundle.load(model_folder(config.model))
    bundle.config = replace(bundle.config, positions=config.positions)
    bundle.save(run.path / "model")


@app.function
def reading(policy, asked):
    """Needles asked of a model, read by one policy."""
    model = kept(
        __file__,
        PolicyConfig(positions=policy),
        lambda run: told_otherwise(PolicyConfig(positions=policy), run),
    )
    config = EvalConfig(
        suite="facts", model=str(model / "model"), seeds=(asked["seed"],), n=asked["n"], lengths=(asked["tokens"],),
        arms=("recency", "lensnet", "oracle"),
    )  # fmt: skip
    answers = kept(__file__, config, lambda run: run_suite(prepare(config), run), asked["seed"])
    return model / "model", RunStore(answers)


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 06 · Positions in a mixed context

    **Question.** A gist stands for 32 tokens, or a thousand, in one entry. Where does it stand for the rotary
    positions: one place among the entries (`context`), in the middle of as many places as its block has tokens
    (`spread`), or in the middle of its span on the timeline (`global`)?

    **Claim.** By the policy that the model was trained by. The tiny model learnt to read gists by `context`; by the
    others it loses answers, though a single fold in a short window costs it little.

    **Cost.** CPU, about 40 s at the size below.

    **What would prove us wrong.** Another policy under which the same weights answer better.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(n=8, spans=8, tokens=3000), n=24, spans=24, tokens=8192, seed=0)
    form = (
        mo.md("Questions {n} over {tokens} tokens · folded spans {spans} · seed {seed}")
        .batch(
            n=mo.ui.number(4, 400, value=default["n"]),
            tokens=mo.ui.number(2048, 65_536, step=1024, value=default["tokens"]),
            spans=mo.ui.number(4, 400, value=default["spans"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Read by all three")
    )
    form
    return default, form


@app.cell
def places():
    # A context as a refocus leaves it: two gists of LOD2, ten of LOD1, one block of tokens between them, the newest.
    widths = np.array([1024, 1024, *[32] * 6, *[1] * 32, *[32] * 4, *[1] * 16])
    stops = np.cumsum(widths)
    drawn = pl.concat(
        pl.DataFrame(
            {
                "series": policy,
                "x": np.arange(len(widths)),
                "y": entry_positions(stops - widths, stops, policy),
            }
        )
        for policy in POLICIES
    )
    mo.vstack(
        [
            mo.md("""
            ## Where entries stand

            One context of two gists of 1,024 tokens, six of 32, a block of tokens that was opened, four gists more
            and the newest tokens: the place of each entry by each policy."""),
            offline(
                lines(
                    drawn,
                    x_label="entry of the context",
                    y_label="position, tokens",
                    x_format="0",
                    y_format="0,0",
                    dots=False,
                )
            ),
        ]
    )
    return


@app.cell
def measuring(default, form):
    asked = sent(form, default)
    with mo.status.spinner("asking, and folding spans, by each policy"):
        read_by = {policy: reading(policy, asked) for policy in POLICIES}
        spans = SubstitutabilityConfig(
            models=tuple(str(model) for model, _ in read_by.values()),
            genres=(PROSE,),
            n=asked["spans"],
            seed=asked["seed"],
        )
        folded = RunStore(
            kept(
                __file__,
                spans,
                lambda run: run_substitutability(prepare_substitutability(spans), run),
                spans.seed,
            )
        )
    return folded, read_by


@app.cell
def answers(read_by):
    rows = pl.concat(
        store.rows().with_columns(policy=pl.lit(policy)) for policy, (_, store) in read_by.items()
    )
    mo.vstack(
        [
            mo.md("""
            ## Answers by policy

            Planted facts, the same budget, the same weights: share of questions answered exactly, 95 % intervals
            (Wilson). The oracle is given the block: what it loses is lost in reading, not in finding."""),
            offline(
                intervals(
                    rows.select(
                        pl.col("arm").alias("label"), pl.col("policy").alias("series"),
                        pl.col("accuracy").alias("mean"),
                        "low", "high", "n",
                    ).sort("label", maintain_order=True),
                    "share right",
                )
            ),
        ]
    )  # fmt: skip
    return (rows,)


@app.cell
def folds(folded, read_by):
    models = dict.fromkeys(
        cell["model"] for cell in folded.results["cells"]
    )  # in the order in which they were given
    policy_of = dict(zip(models, read_by, strict=True))
    costs = pl.DataFrame(
        [
            {
                "label": cell["cell"],
                "series": policy_of[cell["model"]],
                "mean": cell["delta"]["mean"],
                "low": cell["delta"]["low"],
                "high": cell["delta"]["high"],
                "n": cell["spans"],
            }
            for cell in folded.results["cells"]
            if cell["in_place"] == "gist"
        ]
    )
    mo.vstack(
        [
            mo.md("""
            ## One fold in a short window

            Nats a token more on 32 tokens when one span before them is folded into its gist: LOD1 stands for 32 tokens,
            LOD2 for 1,024."""),
            offline(intervals(costs, "delta-NLL, nats a token")),
            shown(
                costs.select(
                    pl.col("label").alias("span"),
                    pl.col("series").alias("policy"),
                    "mean",
                    "low",
                    "high",
                    "n",
                ),
                3,
            ),
        ]
    )
    return


@app.cell
def answer(rows):
    right = {
        (row["policy"], row["arm"]): row["accuracy"]
        for row in rows.select("policy", "arm", "accuracy").to_dicts()
    }
    best = max(POLICIES, key=lambda policy: right[policy, "lensnet"])
    mo.md(f"""
    ## Answer

    Read by `context` LensNet's contexts answer **{right["context", "lensnet"]:.0%}**, by `spread`
    {right["spread", "lensnet"]:.0%}, by `global` {right["global", "lensnet"]:.0%} of {rows["n"].max()} questions;
    with the needed block given {right["context", "oracle"]:.0%}, {right["spread", "oracle"]:.0%} and
    {right["global", "oracle"]:.0%}. These weights read best by `{best}`, which says what they were trained by and not
    which policy is best: that is for trainings of each. Vault: [Gists](../obsidian/architecture/Gists.md) and
    [MegaAttention](../obsidian/architecture/MegaAttention.md), where a place has a width too.
    """)
    return (right,)


@app.cell
def test_the_policy_of_training_reads_best(right):
    own = right["context", "lensnet"]
    assert all(own >= right[policy, "lensnet"] for policy in POLICIES), right
    print({policy: round(right[policy, "lensnet"], 3) for policy in POLICIES})
    return


if __name__ == "__main__":
    app.run()
