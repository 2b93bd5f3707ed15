import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="07 · End-to-end training, live")

with app.setup:
    import marimo as mo
    import polars as pl

    from megacontext.config import load_table
    from megacontext.train.trainers import load_training
    from workbench.notebook import arguments, kept_training, newest_run, offline, sent, shown, watched
    from workbench.plots import TRAIN_PANELS, curves, intervals
    from workbench.stores.run import RunStore

    RECIPE = "tiny-joint"
    PANELS = TRAIN_PANELS[:3]


@app.function
def training(asked):
    """The recipe with so many steps a stage, and what it is measured on made smaller."""
    stages = load_table(RECIPE)["stages"]
    for stage in stages:
        stage["steps"] = asked["steps"]
        if asked["blocks"] and stage["shape"]["max_blocks"] > asked["blocks"]:
            stage["shape"] |= {"min_blocks": asked["blocks"] // 2, "max_blocks": asked["blocks"]}
            stage["shape"] |= {"keys": min(stage["shape"]["keys"], asked["blocks"] // 2)}
    changes = {"stages": stages, "seed": asked["seed"], "measure.windows": asked["windows"]}
    return load_training(RECIPE, changes)


@app.function
def drawn(store):
    """The panels that have something to show so far."""
    frame = store.frame("train")
    return (
        offline(*(curves(frame, panel) for panel in PANELS)) if len(frame) else mo.md("*Measuring before.*")
    )


@app.function
def followed():
    """What the training that goes on has written so far."""
    store = newest_run(__file__)
    return mo.md("*Loading.*") if store is None else drawn(store)


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 07 · End-to-end training, live

    **Question.** Base, GistNet, addresses and LensNet can be trained together, through mixed contexts that LensNet's
    own choices fill. Does that teach the model to read gists without spoiling what it could do?

    **Claim.** Not in a few steps. The base moves first: it loses a little on short contexts and gains on long ones as
    tokens, and gists are worth, against as many recent tokens, what they were worth before. What the whole recipe
    brings is in the vault.

    **Cost.** CPU, about a minute at the size below: a few steps of each stage of the recipe `tiny-joint`, which takes
    half an hour itself.

    **What would prove us wrong.** Gists that lose, against recent tokens, by more than 0.03 nats a token; or a loss
    that rises by more than 0.15 anywhere.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(steps=1, windows=8, blocks=16), steps=3, windows=24, blocks=48, seed=0)
    form = (
        mo.md(
            "Steps of each stage {steps} · held-out windows {windows} · blocks of a passage at most {blocks} (0: the "
            "recipe's) · seed {seed}"
        )
        .batch(
            steps=mo.ui.number(1, 400, value=default["steps"]),
            windows=mo.ui.number(4, 200, value=default["windows"]),
            blocks=mo.ui.number(0, 160, value=default["blocks"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Train")
    )
    form
    return default, form


@app.cell
def live(default, form):
    asked = sent(form, default)
    kind, config = training(asked)
    store = RunStore(watched(lambda: kept_training(__file__, kind, config), followed))
    mo.vstack(
        [
            mo.md(f"""
            ## The training

            {config.total_steps} steps in {len(config.stages)} stages:
            {", ".join(stage.name for stage in config.stages)}. Contexts grow from stage to stage, so a loss that
            rises where one begins is of a harder task."""),
            drawn(store),
        ]
    )
    return config, store


@app.cell
def before_and_after(config, store):
    metrics = store.results["metrics"]
    differences = ("gists_minus_drop", "gists_minus_mean", "wrong_minus_gists")
    frame = pl.DataFrame(
        [
            {
                "label": name.replace("_", " "),
                "series": when,
                "mean": (mean := metrics[f"{prefix}{name}_nats"]),
                "low": mean - 1.96 * metrics[f"{prefix}{name}_se"],
                "high": mean + 1.96 * metrics[f"{prefix}{name}_se"],
                "n": metrics["windows"],
            }
            for name in differences
            for when, prefix in (("before", "before_"), ("after", ""))
        ]
    )
    losses = pl.DataFrame(
        [
            {
                "behind": arm,
                "before, nats a token": metrics[f"before_{arm}_nats"],
                "after, nats a token": metrics[f"{arm}_nats"],
                "change": metrics[f"{arm}_nats"] - metrics[f"before_{arm}_nats"],
            }
            for arm in ("full", "gists", "mean", "wrong", "drop", "none")
        ]
    )
    mo.vstack(
        [
            mo.md(f"""
            ## Before and after

            {metrics["windows"]} windows of {config.held_out.replace("-", " ")}: what {config.measure.horizon} tokens
            cost behind {config.measure.distant_blocks} distant blocks as tokens (full), as gists, as means, as gists of
            another place (wrong), as so many more recent tokens instead (drop), and behind nothing. Differences with
            95 % intervals (1.96 standard errors); below 0 the first is better."""),
            offline(intervals(frame, "nats a token")),
            shown(losses),
        ]
    )
    return losses, metrics


@app.cell
def answer(config, losses, metrics):
    change = dict(losses.select("behind", "change").iter_rows())
    better = "fell" if change["gists"] < 0 else "rose"
    mo.md(f"""
    ## Answer

    After {config.total_steps} steps and {metrics["positions_read"]:,} positions read, the loss behind gists {better} by
    **{abs(change["gists"]):.3f} nats a token** (from {metrics["before_gists_nats"]:.3f} to
    {metrics["gists_nats"]:.3f}), that behind plain tokens changed by {change["full"]:+.3f}. Gists against as many
    recent tokens: {metrics["before_gists_minus_drop_nats"]:+.3f} before, {metrics["gists_minus_drop_nats"]:+.3f}
    after. Of {metrics["address_questions"]} questions {metrics["address_found_among_512"]:.0%} find their block
    among 512. The whole recipe: the vault's note [Training end to
    end](../obsidian/architecture/Training%20end%20to%20end.md).
    """)
    return (change,)


@app.cell
def test_gists_keep_their_worth_and_little_is_lost(change):
    assert change["gists"] - change["drop"] < 0.03 and max(change.values()) < 0.15, change
    print({name: round(change[name], 4) for name in ("gists", "full", "drop")})
    return


if __name__ == "__main__":
    app.run()
