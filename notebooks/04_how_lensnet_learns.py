import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="04 · How LensNet learns")

with app.setup:
    from dataclasses import dataclass

    import marimo as mo
    import polars as pl
    import torch

    from megacontext.config import load_table
    from megacontext.evals.evaluation import EvalConfig, opened, prepare
    from megacontext.evals.focus_audit import audit_tables, audited, check_audit
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.runtime.session import FocusConfig
    from megacontext.train.trainers import load_training
    from workbench.notebook import arguments, kept, kept_training, offline, sent, shown
    from workbench.plots import TRAIN_PANELS, curves, intervals
    from workbench.stores.run import RunStore


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class FreshConfig:
    """The model whose LensNet forgets all."""

    model: str = "tiny"
    seed: int = 0


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Whose scores are held against measured worths, and on how many questions."""

    audit: EvalConfig
    questions: int = 4


@app.function
def forget(config, run):
    """The model with a LensNet that has learnt nothing, in the run's folder."""
    trained = Bundle.load(model_folder(config.model))
    torch.manual_seed(config.seed)
    fresh = Bundle(trained.config, trained.tokenizer)
    for (name, part), (_, learnt) in zip(fresh.parts(), trained.parts(), strict=True):
        if name != "lens":
            part.load_state_dict(learnt.state_dict())
        part.eval()
    fresh.save(run.path / "model")


@app.function
def lesson(kind, steps, model, seed):
    """A training of LensNet alone: `cloze` asks which block, `counterfactual` what each edit is worth."""
    stage = next(one for one in load_table("tiny-joint")["stages"] if one["kind"] == kind)
    stage |= {
        "steps": steps,
        "shape": stage["shape"] | {"min_blocks": 32, "max_blocks": 64, "asks": 2, "keys": 12},
    }
    changes = {"model": str(model), "stages": [stage], "seed": seed, "measure.windows": 8}
    return load_training("tiny-joint", changes)


@app.function
def audit(config, run):
    """The first questions of one history, audited as `megacontext eval focus-audit` does."""
    prepared = prepare(config.audit)
    check_audit(prepared)
    rows = []
    (cell,) = config.audit.cells()
    history = prepared.histories[cell.name][0]
    with opened(prepared, history, run, []) as case:
        for number, question in enumerate(case.asked.questions[: config.questions]):
            rows += [{"cell": cell.name} | row for row, _ in audited(case, question, number, config.audit)]
    run.results(audit_tables(config.audit, rows))


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 04 · How LensNet learns

    **Question.** LensNet can be taught which block holds what a question asks for, or what each edit of a context is
    worth, measured by leaving it undone. Which teaches it more, and in what order?

    **Claim.** Which-block pretraining is cheap and finds the evidence: what the model then reads makes it sure of
    the true answer. Measured worths alone bring scores into a better order, but find nothing from nothing in a few
    steps.

    **Cost.** CPU, about 65 s of one core at the size below: three short trainings from a LensNet that knows nothing,
    and an audit of each.

    **What would prove us wrong.** A LensNet that after which-block pretraining leaves the model no surer of the answer
    than one that has learnt nothing; or measured worths that do as much for it from nothing.
    """)
    return


@app.cell
def controls():
    default = arguments(
        dict(cloze=3, counterfactual=1, questions=1, tokens=1200),
        cloze=30,
        counterfactual=6,
        questions=4,
        tokens=2048,
        seed=0,
    )
    form = (
        mo.md(
            "Which-block steps {cloze} · counterfactual steps {counterfactual} · audited questions {questions} over "
            "{tokens} tokens · seed {seed}"
        )
        .batch(
            cloze=mo.ui.number(1, 2000, value=default["cloze"]),
            counterfactual=mo.ui.number(1, 2000, value=default["counterfactual"]),
            questions=mo.ui.number(1, 24, value=default["questions"]),
            tokens=mo.ui.number(1200, 16_384, value=default["tokens"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Teach")
    )  # fmt: skip
    form
    return default, form


@app.cell
def teaching(default, form):
    asked = sent(form, default)
    fresh = kept(
        __file__, FreshConfig(seed=asked["seed"]), lambda run: forget(FreshConfig(seed=asked["seed"]), run)
    )

    def taught(kind, steps, run):
        return kept_training(__file__, *lesson(kind, steps, run / "model", asked["seed"]))

    with mo.status.spinner("teaching which block, teaching what an edit is worth, one after the other"):
        cloze = taught("cloze", asked["cloze"], fresh)
        lessons = {
            "nothing": fresh,
            "which block": cloze,
            "worths": taught("counterfactual", asked["counterfactual"], fresh),
            "which block, then worths": taught("counterfactual", asked["counterfactual"], cloze),
        }
    return asked, lessons


@app.cell
def learning(lessons):
    told = [RunStore(run).frame("train").with_columns(stage=pl.lit(name)) for name, run in lessons.items()]
    mo.vstack(
        [
            mo.md("## While it learns"),
            *(
                mo.vstack([mo.md(f"**{name}**"), offline(curves(frame, TRAIN_PANELS[0], height_px=180))])
                for name, frame in zip(lessons, told, strict=True)
                if len(frame)
            ),
        ]
    )
    return


@app.cell
def auditing(asked, lessons):
    rows = []
    with mo.status.spinner("opening block by block, to see what each is worth"):
        for name, run in lessons.items():
            config = AuditConfig(
                audit=EvalConfig(
                    suite="focus-audit", model=str(run / "model"), seeds=(asked["seed"],), n=1,
                    lengths=(asked["tokens"],), arms=("lensnet",), focus=FocusConfig(budget=256),
                ),
                questions=asked["questions"],
            )  # fmt: skip
            found = RunStore(kept(__file__, config, lambda run, config=config: audit(config, run)))
            rows += [row | {"taught": name} for row in found.results["audit"]]
    audits = pl.DataFrame(rows)
    return (audits,)


@app.cell
def comparison(audits):
    def chart(name, axis):
        return intervals(
            audits.select(
                pl.lit("taught").alias("label"), pl.col("taught").alias("series"), pl.col(name).alias("mean"),
                pl.col(f"{name}_low").alias("low"), pl.col(f"{name}_high").alias("high"), "n",
            ),
            axis,
        )  # fmt: skip

    figures = audits.select(
        "taught",
        pl.col("first").alias("most useful block first"),
        pl.col("spearman").alias("rank correlation"),
        pl.col("regret_nats").alias("regret, nats"),
        pl.col("nll_nats").alias("answer, nats"),
        pl.col("nll_best_nats").alias("under the best, nats"),
        "n",
    )
    mo.vstack(
        [
            mo.md("""
            ## Scores against measured worths

            What opening each block saves on the true answer, beside what LensNet gives the block's entry; means over
            questions with 95 % intervals. Regret: worth that its context misses against the best under the budget."""),
            offline(chart("regret_nats", "regret, nats of an answer"), chart("nll_nats", "the answer, nats")),
            shown(figures, 3),
        ]
    )
    return


@app.cell
def answer(asked, audits):
    by = {row["taught"]: row for row in audits.to_dicts()}
    gained = {name: by["nothing"]["nll_nats"] - row["nll_nats"] for name, row in by.items()}
    said = "; ".join(
        f"*{name}* {row['nll_nats']:.2f} nats, most useful block first for {row['first']:.0%}, regret "
        f"{row['regret_nats']:.1f}"
        for name, row in by.items()
    )
    best = max(gained, key=gained.get)
    mo.md(f"""
    ## Answer

    What the true answer costs under the contexts of a LensNet that was taught {said}. Surest by **{best}**: it saves
    {gained[best]:.2f} of {by["nothing"]["nll_nats"]:.2f} nats. Regret, which takes the worths of blocks as additive,
    may rise all the while: blocks that only resemble the evidence harm as long as it is folded, and no longer once
    it is open. {asked["questions"]} questions are a smoke test; trainings of use are in the vault's note
    [Training end to end](../obsidian/architecture/Training%20end%20to%20end.md).
    """)
    return by, gained


@app.cell
def test_which_block_pretraining_teaches_something(asked, by, gained):
    # A few steps cannot be held to more than that they were taken, and that scores are numbers.
    assert all(row["regret_nats"] >= -1e-6 for row in by.values())
    if asked["cloze"] >= 20:
        assert gained["which block"] > max(0.0, gained["worths"]), gained
    print({name: round(value, 3) for name, value in gained.items()})
    return


if __name__ == "__main__":
    app.run()
