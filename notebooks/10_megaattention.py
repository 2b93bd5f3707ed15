import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="10 · MegaAttention: are summaries read?")

with app.setup:
    import atexit
    import functools
    import shutil
    import tempfile
    import time
    from dataclasses import dataclass
    from pathlib import Path

    import marimo as mo
    import numpy as np
    import polars as pl
    import torch
    import torch.nn.functional as F

    from megacontext.config import data_root, load_recipe
    from megacontext.corpus.book import load_book
    from megacontext.corpus.shards import Corpus, CorpusConfig, Shard, open_corpus
    from megacontext.runtime.bundle import Bundle
    from megacontext.tasks.facts import sentence_gaps
    from megacontext.tasks.far_facts import FarFacts
    from megacontext.train.pretrain.config import PretrainConfig
    from megacontext.train.pretrain.plan import plan
    from megacontext.train.pretrain.trainer import Trainer
    from megacontext.train.pretrain.world import World
    from workbench.notebook import arguments, kept, newest_run, offline, sent, shown, watched
    from workbench.plots import TRAIN_PANELS, curves, lines
    from workbench.stores.run import RunStore

    ARMS = {
        "dense": {"attention": "full"},
        "window": {"attention": "window"},
        "gaussian": {"pyramid.rotary": "gaussian"},
        "plain": {"pyramid.rotary": "plain"},
        "none": {"pyramid.rotary": "none"},
        "gaussian + ALiBi": {"pyramid.alibi": True},
        "log-distance": {"pyramid.rotary": "none", "pyramid.positions": "log-distance"},
    }
    BOOKS, HELD_OUT = ("emma", "persuasion"), "pride-and-prejudice"
    # Of 256 tokens a query sees 16 to 31 one by one and 15 summaries of 16 at most. The rates are those of a model that
    # is trained on: at the recipe's own it forgets in 50 steps what it knew.
    SHAPE = {
        "corpus.books": list(BOOKS),
        "corpus.held_out": [HELD_OUT],
        "pyramid.window": 16,
        "pyramid.block": 16,
        "pyramid.spans": [256],
        "batch.device_batch_size": 8,
        "batch.total_batch_size": 2048,
        "measure.eval_tokens": 32_768,
        "rates.warmup_steps": 5,
        "rates.embedding_lr": 0.02,
        "rates.unembedding_lr": 0.0005,
        "rates.matrix_lr": 0.004,
        "rates.scalar_lr": 0.02,
    }
    ROW, LOOKS = 256, 4


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class FarRecallConfig:
    """One arm's training."""

    arm: str = "dense"
    seed: int = 0
    steps: int = 20
    facts: int = 2
    gap: int = 130
    asked_texts: int = 64
    """Held-out texts that are asked about, at every look."""


@app.function
def far_texts(title, count, tokenizer, config, seed, held_out):
    """So many beginnings of sentences of a book, each a row with facts and questions of its own."""
    ids, rng = tokenizer.encode(load_book(title).text), np.random.default_rng(seed)
    starts = sentence_gaps(ids, tokenizer)
    far = FarFacts(tokens=ROW, facts=config.facts, gap=config.gap)
    for start in rng.choice(starts[starts < len(ids) - ROW], size=count):
        yield far.plant(ids[start : start + ROW], tokenizer, rng, held_out=held_out)


@app.function
def corpus_of(tokenizer, config, rows):
    """Texts with questions to be trained on, no text twice; and plain text of a book that nobody is trained on."""

    def written():
        for number, title in enumerate(BOOKS):
            texts = far_texts(
                title, rows // len(BOOKS) + 1, tokenizer, config, config.seed * 10 + number, False
            )
            yield from (tokenizer.decode(text.ids) for text in texts)

    told = f"{config.facts}-{config.gap}-{config.seed}-{rows}"
    plain = open_corpus(CorpusConfig(books=BOOKS, held_out=(HELD_OUT,))).validation
    return Corpus((Shard("far-facts", told, written),), plain)


@app.function
@functools.cache
def token_cache():
    """Where the texts lie as tokens while this process lives: all arms read the same ones."""
    folder = Path(tempfile.mkdtemp(prefix="far-facts-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@app.function
@torch.inference_mode()
def recall(trainer, config):
    """Nats of an answer, all its tokens together, and how often it is right, over held-out texts and names."""
    model, tokenizer = trainer.model.eval(), trainer.tokenizer
    texts = list(far_texts(HELD_OUT, config.asked_texts, tokenizer, config, 99, True))
    nats, right = [], []
    for first in range(0, len(texts), 8):
        some = texts[first : first + 8]
        ids = torch.from_numpy(np.stack([text.ids for text in some]).astype(np.int64))
        read = F.pad(ids, (1, 0), value=tokenizer.bos_id)[:, :-1]
        logits = model.unembed(model(model.embed(read), torch.arange(ROW)[None], ids=read))
        lost = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        hit = logits.argmax(dim=-1) == ids
        for row, text in enumerate(some):
            nats += [lost[row, slice(*span)].sum().item() for span in text.answers]
            right += [hit[row, slice(*span)].all().item() for span in text.answers]
    model.train()
    return {"nats": float(np.mean(nats)), "right": float(np.mean(right)), "n": len(nats)}


@app.function
def trained(run, config):
    """Train one arm on from the shipped model; into the run go its curve, what it recalls meanwhile, what it loses."""
    bundle = Bundle.load(data_root() / "tiny")
    shape = {
        f"model.{name}": getattr(bundle.config.model, name)
        for name in ("n_layer", "n_head", "n_kv_head", "n_embd")
    }
    told = SHAPE | shape | {"model.vocab_size": bundle.tokenizer.vocab_size, "model.sequence_len": ROW}
    told |= {"seed": config.seed, "horizon.num_iterations": config.steps} | ARMS[config.arm]
    recipe = load_recipe(PretrainConfig, "tiny-pyramid", told)
    window = recipe.pyramid.equal_window(ROW)
    # Each layer of the window looks so far back, and smear one token further.
    assert recipe.model.n_layer * (window - 1) + 1 < config.gap, f"a window of {window} reaches the facts"
    planned = plan(recipe, 1)
    # A tenth more than is read: packing leaves some texts over.
    corpus = corpus_of(bundle.tokenizer, config, 64 + config.steps * planned.batch_tokens * 11 // (10 * ROW))
    world = World(0, 1, torch.device("cpu"))
    trainer = Trainer(recipe, planned, corpus, bundle.tokenizer, token_cache(), world)
    trainer.base.load_state_dict(bundle.base.state_dict())
    looks, began = [{"step": 0} | recall(trainer, config)], time.process_time()
    for step in range(1, config.steps + 1):
        report = trainer.train_step()
        run.telemetry.emit(
            "train", stage=config.arm, step=step, wall_s=time.process_time() - began,
            tokens_seen=step * planned.batch_tokens, loss_nats=report.loss_nats,
            lm_loss_nats=report.loss_nats, learning_rate=report.learning_rate,
        )  # fmt: skip
        if step * LOOKS // config.steps > (step - 1) * LOOKS // config.steps:
            looks.append({"step": step} | recall(trainer, config))
    seconds = time.process_time() - began
    run.results(
        {
            "looks": looks,
            "bits_per_byte": trainer.evaluate().bits_per_byte,
            "flops_per_token": planned.flops_per_token,
            "processor_s": seconds,
            "tokens_read": trainer.tokens_digest,
        }
    )


@app.function
def followed():
    """What the training that goes on has written so far."""
    store = newest_run(__file__)
    if store is None or not len(store.frame("train")):
        return mo.md("*Writing the texts.*")
    return offline(curves(store.frame("train"), TRAIN_PANELS[0]))


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 10 · MegaAttention: are summaries read?

    **Question.** A model that recalls what it was told is trained on with another attention: it reads the last 16
    tokens one by one and all that is older in summaries of 16, made by GistNet from what it reads. Does it learn to
    recall what only the summaries hold? Does it lose as a reader of plain text? How should a row say where it stands?

    **How we tell.** Every text begins with facts, and ends with questions about them, at least 130 tokens later. All
    arms begin as the shipped tiny model, which answers nearly all of them while it sees all tokens, and are trained on
    the same texts. The arm *window* has a sliding window that sees as many pairs as the pyramid and nothing else:
    through all of its layers it looks less than 130 tokens back, so an answer costs it what a guess does, 8.3 nats.

    **Claim.** The pyramid learns to read its summaries: an answer costs it less than it costs the window.

    **Cost.** CPU, two minutes of one core at the size below, which says little. What the vault tells took
    `python notebooks/10_megaattention.py --steps 400 --asked 128`, half an hour a seed.

    **What would prove us wrong.** In the longer training a pyramid that recalls no more than the window does, or
    a loss on plain text more than 2 % above the dense model's.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(steps=2, asked=8), steps=8, seeds=1, seed=0, facts=2, gap=130, asked=32)
    form = (
        mo.md(
            """
            Steps {steps} · seeds {seeds}, the first {seed} · facts in a text {facts} · tokens from facts to
            questions {gap} · texts that are asked about {asked}
            """
        )
        .batch(
            steps=mo.ui.number(2, 5000, value=default["steps"]),
            seeds=mo.ui.number(1, 8, value=default["seeds"]),
            seed=mo.ui.number(0, 10_000, value=default["seed"]),
            facts=mo.ui.number(1, 3, value=default["facts"]),
            gap=mo.ui.number(130, 160, value=default["gap"]),
            asked=mo.ui.number(8, 1000, step=8, value=default["asked"]),
        )
        .form(submit_button_label="Train all arms")
    )
    form
    return default, form


@app.cell
def training(default, form):
    asked = sent(form, default)

    def row(arm, seed):
        config = FarRecallConfig(
            arm=arm, seed=seed, steps=asked["steps"], facts=asked["facts"], gap=asked["gap"],
            asked_texts=asked["asked"],
        )  # fmt: skip
        path = watched(lambda: kept(__file__, config, lambda run: trained(run, config), seed), followed)
        return {"arm": arm, "seed": seed} | RunStore(path).results

    first = asked["seed"]
    found = [row(arm, seed) for seed in range(first, first + asked["seeds"]) for arm in ARMS]
    mo.md("## The trainings")
    return asked, found


@app.cell
def table(found):
    measured = pl.DataFrame(
        {
            "arm": one["arm"],
            "seed": one["seed"],
            "bits per byte": one["bits_per_byte"],
            "an answer, nats": one["looks"][-1]["nats"],
            "answers right": one["looks"][-1]["right"],
            "n": one["looks"][-1]["n"],
            "FLOPs a token": one["flops_per_token"],
            "processor, s": one["processor_s"],
            "tokens read": one["tokens_read"][:8],
        }
        for one in found
    )
    dense = pl.col("bits per byte").filter(pl.col("arm") == "dense").first().over("seed")
    measured = measured.with_columns((pl.col("bits per byte") / dense).alias("of dense"))
    mo.vstack(
        [
            mo.md("""
            Bits per byte are those of plain text of a book that nobody was trained on; the questions are about facts in
            other texts of that book, with names that nobody was trained on."""),
            shown(measured),
        ]
    )
    return (measured,)


@app.cell
def figure(found):
    looks = pl.DataFrame(
        {"series": one["arm"], "seed": one["seed"], "x": look["step"], "y": look["nats"]}
        for one in found
        for look in one["looks"]
    )
    looks = looks.group_by("series", "x", maintain_order=True).agg(pl.col("y").mean())
    mo.vstack(
        [
            mo.md("## What an answer costs, by training (mean of the seeds)"),
            offline(lines(looks, x_label="training step", y_label="nats an answer", x_format="0")),
        ]
    )
    return


@app.cell
def answer(asked, measured):
    means = measured.group_by("arm", maintain_order=True).agg(
        pl.col("of dense", "an answer, nats", "answers right").mean()
    )
    by_arm = {one["arm"]: one for one in means.to_dicts()}
    # How far apart seeds lie within an arm: what a difference between arms has to beat.
    apart = pl.col("an answer, nats").max() - pl.col("an answer, nats").min()
    spread = measured.group_by("arm").agg(apart)["an answer, nats"].max()
    gained = by_arm["window"]["an answer, nats"] - by_arm["gaussian"]["an answer, nats"]
    worst = max(one["of dense"] for one in by_arm.values())
    chance = f"seeds of one arm differ by up to {spread:.2f} nats" if asked["seeds"] > 1 else "one seed"
    mo.md(f"""
    ## Answer

    After {asked["steps"]} steps an answer costs the pyramid with Gaussian positions {gained:.2f} nats less than the
    window of equal cost ({by_arm["gaussian"]["an answer, nats"]:.2f}; dense attention
    {by_arm["dense"]["an answer, nats"]:.2f}); {chance}. Of plain text it has {by_arm["gaussian"]["of dense"]:.3f} times
    the dense model's bits per byte, the worst arm {worst:.3f} times.

    What the longer training told: the vault's note [MegaAttention](../obsidian/architecture/MegaAttention.md).
    """)
    return by_arm, gained


@app.cell
def test_all_arms_read_the_same_tokens_and_the_window_costs_less(measured):
    unlike = measured.group_by("seed").agg(pl.col("tokens read").n_unique())["tokens read"]
    assert unlike.max() == 1, "unlike tokens"
    cost = {one["arm"]: one["FLOPs a token"] for one in measured.to_dicts()}
    assert cost["window"] < cost["dense"], "the window costs as much as all"
    return


@app.cell
def test_summaries_are_read_once_there_was_time_to_learn_it(asked, by_arm, gained):
    if asked["steps"] >= 200:
        assert gained > 0, "the pyramid recalls no more than the window"
    assert by_arm["dense"]["an answer, nats"] < by_arm["window"]["an answer, nats"], "not even dense recalls"
    print(
        {name: round(one["an answer, nats"], 3) for name, one in by_arm.items()}
        | {"gained": round(gained, 4)}
    )
    return


if __name__ == "__main__":
    app.run()
