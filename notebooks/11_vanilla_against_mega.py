import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="11 · Vanilla against MegaContext, matched tokens")

with app.setup:
    import marimo as mo
    import polars as pl

    from megacontext.train.trainers import load_training
    from workbench.notebook import arguments, kept_training, newest_run, offline, sent, shown, watched
    from workbench.plots import TRAIN_PANELS, curves, lines
    from workbench.stores.run import RunStore

    ARMS = {"vanilla": False, "with gists": True}


@app.function
def training(mega, asked):
    """The recipe `tiny-cpu` at a smaller size; the two differ in `mega` alone."""
    changes = {
        "mega": mega, "seed": asked["seed"], "horizon.num_iterations": asked["steps"], "model.n_embd": asked["width"],
        "model.vocab_size": 1024, "corpus.books": ["emma", "persuasion"], "measure.eval_tokens": asked["scored"],
        "measure.eval_every": max(1, asked["steps"] // 4), "measure.log_every": max(1, asked["steps"] // 20),
        "measure.trigram": False, "rates.warmup_steps": max(1, asked["steps"] // 20),
    }  # fmt: skip
    return load_training("tiny-cpu", changes)


@app.function
def followed():
    """What the training that goes on has written so far."""
    store = newest_run(__file__)
    if store is None or not len(store.frame("train")):
        return mo.md("*Learning a vocabulary.*")
    return offline(curves(store.frame("train"), TRAIN_PANELS[0]))


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 11 · Vanilla against MegaContext, matched tokens

    **Question.** A base model that learns to read gists folds some blocks of every row from its first step on. What
    does that cost it as a reader of plain text, when both see the same tokens in the same order?

    **Claim.** Little: at equal tokens the loss on plain text of the model that was trained with gists is within a tenth
    of the vanilla model's, while it read fewer entries.

    **Cost.** CPU, two to three minutes at the size below, both trainings together.

    **What would prove us wrong.** More than a tenth more bits per byte; or trainings that read unlike tokens, which
    would make the comparison void.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(steps=4, scored=4096, width=64), steps=20, scored=20_000, width=128, seed=42)
    form = (
        mo.md("Steps {steps} · width {width} · scored tokens {scored} · seed {seed}")
        .batch(
            steps=mo.ui.number(2, 5000, value=default["steps"]),
            width=mo.ui.number(64, 512, step=64, value=default["width"]),
            scored=mo.ui.number(1024, 200_000, value=default["scored"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Train both")
    )
    form
    return default, form


@app.cell
def live(default, form):
    asked = sent(form, default)

    def trained(mega):
        kind, config = training(mega, asked)
        return RunStore(watched(lambda: kept_training(__file__, kind, config), followed))

    stores = {arm: trained(mega) for arm, mega in ARMS.items()}
    mo.md("## The trainings")
    return asked, stores


@app.cell
def validation(stores):
    frame = pl.concat(
        store.frame("validation").select(
            pl.lit(arm).alias("series"), pl.col("tokens_seen").alias("x"), pl.col("bits_per_byte").alias("y")
        )
        for arm, store in stores.items()
    )
    losses = pl.concat(
        store.frame("train").select(
            pl.lit(arm).alias("series"), pl.col("step").alias("x"), pl.col("loss_nats").alias("y")
        )
        for arm, store in stores.items()
    )
    mo.vstack(
        [
            mo.md("""
            Bits per byte on a book that neither was trained on, read as plain tokens, by tokens seen; and the loss that
            each was trained by, which of the one with gists is that of mixed rows."""),
            offline(
                lines(frame, x_label="tokens seen", y_label="bits per byte"),
                lines(
                    losses, x_label="training step", y_label="training loss, nats", x_format="0", dots=False
                ),
            ),
        ]
    )
    return


@app.cell
def comparison(stores):
    table = pl.DataFrame(
        [
            {
                "arm": arm,
                "bits per byte": (metrics := store.results["metrics"])["bits_per_byte"],
                "tokens": metrics["tokens"],
                "entries read": metrics["entries"],
                "seconds": metrics["training_s"],
                "digest of the tokens": metrics["tokens_digest"][:12],
            }
            for arm, store in stores.items()
        ]
    )
    mo.vstack([mo.md("## At matched tokens"), shown(table)])
    return (table,)


@app.cell
def answer(asked, table):
    vanilla, mega = table["bits per byte"].to_list()
    ratio = mega / vanilla
    read = table["entries read"][1] / table["entries read"][0]
    same = table["digest of the tokens"].n_unique() == 1
    mo.md(f"""
    ## Answer

    After {asked["steps"]} steps over {table["tokens"][0]:,} tokens, {"the same ones" if same else "unlike ones"} for
    both, the model that folds blocks has **{ratio:.3f} times** the vanilla model's bits per byte on plain text
    ({mega:.3f} against {vanilla:.3f}) and read {read:.2f} times as many entries. One seed, and a training that has
    hardly begun: longer ones are in the vault's note
    [Training end to end](../obsidian/architecture/Training%20end%20to%20end.md).
    """)
    return ratio, same


@app.cell
def test_tokens_match_and_plain_text_is_not_lost(ratio, same):
    assert same, "the two were trained on unlike tokens"
    assert ratio <= 1.1, ratio
    print({"ratio": round(ratio, 4)})
    return


if __name__ == "__main__":
    app.run()
