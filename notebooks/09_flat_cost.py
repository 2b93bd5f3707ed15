import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="09 · Flat cost")

with app.setup:
    from contextlib import ExitStack
    from dataclasses import dataclass

    import marimo as mo
    import polars as pl

    from megacontext.bench.live import LiveBenchConfig, answering, decoding, histories, keeping_every_token
    from megacontext.bench.machine import machine
    from megacontext.models.cache import KVCache
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.runtime.encoding import BundleEncoder
    from megacontext.tree import Memory
    from workbench.notebook import arguments, kept, offline, sent, shown
    from workbench.plots import lines
    from workbench.stores.run import RunStore


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class FlatConfig:
    """Lengths of history, and how long each is decoded behind."""

    model: str = "tiny"
    tokens: tuple[int, ...] = (8_192, 32_768, 131_072)
    plain_tokens: tuple[int, ...] = (1024, 4096, 8192)
    budget: int = 1024
    rounds: int = 4
    needles: int = 8
    seed: int = 0


@app.function
def measure(config, run):
    """Histories, decoding, answers, and the same model that keeps every token, all as the bench does it."""
    bench = LiveBenchConfig(
        tokens=config.tokens, plain_tokens=config.plain_tokens, budget=config.budget, rounds=config.rounds,
        needles=config.needles, seed=config.seed,
    )  # fmt: skip
    bundle = Bundle.load(model_folder(config.model))
    encoder = BundleEncoder(bundle)
    folder = run.path / "memory"
    folder.mkdir()
    planted, paths = histories(bench, bundle, folder)
    with ExitStack() as stack:
        memories = {
            tokens: stack.enter_context(Memory.open(path, encoder.identity(), encoder, writable=True))
            for tokens, path in paths.items()
        }
        told = {
            "decode": decoding(bench, bundle, memories),
            "answers": answering(bench, bundle, memories, planted),
        }
    run.results(
        told
        | {
            "plain": keeping_every_token(bench, bundle),
            "bytes_per_position": KVCache.bytes_per_position(bundle.config.model),
            "machine": machine(),
        }
    )


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 09 · Flat cost

    **Question.** What does the next token cost when the history has become sixteen times as long: in positions, in
    bytes of keys and values, in milliseconds?

    **Claim.** The same. Through a working context positions, bytes and milliseconds are those of the budget, and the
    oldest facts are still found. A model that keeps every token holds and reads the keys and values of each; whether
    that is felt in milliseconds depends on the size of model and history.

    **Cost.** CPU, about a minute at the size below, most of it reading the longest history once.

    **What would prove us wrong.** Milliseconds a token that grow with the history; more positions than the budget; or
    oldest facts that are lost where the history is long.
    """)
    return


@app.cell
def controls():
    default = arguments(
        dict(longest=16_384, rounds=1, needles=4, plain=1024),
        longest=131_072,
        rounds=4,
        needles=8,
        plain=8192,
        seed=0,
    )
    form = (
        mo.md(
            "Longest history {longest} tokens · periods decoded {rounds} · oldest facts {needles} · every token "
            "kept up to {plain} · seed {seed}"
        )
        .batch(
            longest=mo.ui.number(16_384, 10_000_000, step=16_384, value=default["longest"]),
            rounds=mo.ui.number(1, 50, value=default["rounds"]),
            needles=mo.ui.number(1, 24, value=default["needles"]),
            plain=mo.ui.number(256, 65_536, step=256, value=default["plain"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
        )
        .form(submit_button_label="Decode")
    )
    form
    return default, form


@app.cell
def measuring(default, form):
    asked = sent(form, default)
    config = FlatConfig(
        tokens=tuple(dict.fromkeys((8192, max(8192, asked["longest"] // 4), asked["longest"]))),
        plain_tokens=tuple(dict.fromkeys((asked["plain"] // 8, asked["plain"] // 2, asked["plain"]))),
        rounds=asked["rounds"],
        needles=asked["needles"],
        seed=asked["seed"],
    )
    with mo.status.spinner("reading histories, decoding in turns, asking for the oldest facts"):
        found = RunStore(kept(__file__, config, lambda run: measure(config, run), config.seed)).results
    return config, found


@app.cell
def figures(found):
    each = found["bytes_per_position"]
    rows = [
        {"series": name, "x": int(tokens), "ms": arm["p50_ms"], "positions": arm["positions"]}
        for name, part in (("every token kept", found["plain"]), ("working context", found["decode"]))
        for tokens, arm in part.items()
    ]
    frame = pl.DataFrame(rows).with_columns(MB=pl.col("positions") * each / 1e6)
    axis, ground = "tokens of history", (0, None)
    charts = [
        lines(frame.with_columns(y=pl.col(column)), x_label=axis, y_label=label, log_x=True, y_limits=ground)
        for column, label in (
            ("ms", "ms a token, median"),
            ("positions", "positions"),
            ("MB", "MB of keys and values"),
        )
    ]
    mo.vstack([mo.md("## One token, by the length of the history"), offline(*charts)])
    return (frame,)


@app.cell
def table(found):
    decoded = pl.DataFrame(
        [
            {
                "tokens of history": int(tokens),
                "ms a token, median": arm["p50_ms"],
                "over the shortest": arm["p50_ratio"],
                "ms a period, focus included": arm["period_ms"],
                "share of focus": arm["refocus_share"],
                "positions": arm["positions"],
                "oldest facts right": f"{found['answers'][tokens]['right']} of {found['answers'][tokens]['asked']}",
                "ms an answer": found["answers"][tokens]["answer_ms"],
            }
            for tokens, arm in found["decode"].items()
        ]
    )
    mo.vstack([mo.md("## Decoding through a working context"), shown(decoded, 3)])
    return


@app.cell
def answer(config, found):
    shortest, longest = str(min(config.tokens)), str(max(config.tokens))
    first, last = found["decode"][shortest], found["decode"][longest]
    plain, position_mb = list(found["plain"].items()), found["bytes_per_position"] / 1e6
    recalled = found["answers"][longest]
    ratio = last["p50_ms"] / first["p50_ms"]
    mo.md(f"""
    ## Answer

    Behind {int(longest):,} tokens a token takes **{ratio:.2f} times** what it takes behind {int(shortest):,}
    ({last["p50_ms"]:.2f} ms against {first["p50_ms"]:.2f} ms, {found["machine"]["processor"]}), with
    {last["positions"]:,} positions of a budget of {config.budget:,}; of the oldest facts {recalled["right"]} of
    {recalled["asked"]} are answered. It holds {last["positions"] * position_mb:.1f} MB of keys and values. Keeping
    every token these grow from {plain[0][1]["positions"] * position_mb:.1f} MB behind {int(plain[0][0]):,} tokens to
    **{plain[-1][1]["positions"] * position_mb:.1f} MB** behind {int(plain[-1][0]):,}, and a token takes
    {plain[0][1]["p50_ms"]:.1f} ms and {plain[-1][1]["p50_ms"]:.1f} ms: with a model as small as this one reading
    them is
    {"a part of that" if plain[-1][1]["p50_ms"] > 1.2 * plain[0][1]["p50_ms"] else "too little of that to be seen"}.
    A quiet machine and longer histories: `megacontext bench live`; the vault's note
    [Results](../obsidian/results/Results.md).
    """)
    return first, last, ratio, recalled


@app.cell
def test_positions_stay_within_the_budget(config, found):
    assert all(arm["positions"] <= config.budget for arm in found["decode"].values())
    return


@app.cell
def test_the_cost_is_flat_and_the_oldest_is_found(config, ratio, recalled):
    # Medians of turns taken side by side; what is left is the pace of a shared machine, more so in a few turns.
    assert ratio < (1.5 if config.rounds >= 4 else 3), ratio
    assert recalled["right"] >= 0.5 * recalled["asked"]
    print({"ratio": round(ratio, 3), "oldest": f"{recalled['right']}/{recalled['asked']}"})
    return


if __name__ == "__main__":
    app.run()
