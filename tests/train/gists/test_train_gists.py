"""The trainer of embedding gists: what is frozen stays, what is trained moves and is saved, chance is not learnt."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import VOCABULARY, K, ids_of, random_bundle, write_book

from megacontext.cli import main
from megacontext.corpus.documents import Document
from megacontext.errors import ConfigError
from megacontext.evals.delta_nll import arms_nats
from megacontext.gistnet.gist import GistNetConfig
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.runtime.planted_windows import PlantedConfig
from megacontext.train.gists.config import GistStage, GistTrainConfig, LossWeights
from megacontext.train.gists.loop import GistData, load_gist_data, train_gists
from megacontext.train.gists.lora import low_rank
from megacontext.train.gists.windows import WindowSampler
from megacontext.train.trainers import load_training


def test_shipped_recipes_are_read():
    for name in ("tiny-gists", "notebook-era"):
        _, made = load_training(name, {})
        assert isinstance(made, GistTrainConfig)
    pooling, delta = made.stages
    assert (pooling.steps, pooling.lr, delta.steps, delta.lr) == (2000, 1e-3, 1000, 5e-4)
    window = delta.window(32, delta.max_blocks, 0)
    assert window.tokens == 512 and window.scored_tokens == 32 and not made.gistnet.mean_start


class Silent:
    """Telemetry that keeps its rows."""

    def __init__(self):
        self.rows = []

    def emit(self, kind, **row):
        self.rows.append((kind, row))


ALL = {
    "horizon": 1.0,
    "teacher": 0.5,
    "reconstruction": 0.5,
    "separation": 0.05,
    "next_gist": 0.1,
    "pooling": 0.1,
}


def stage(**changes):
    given = {
        "name": "one",
        "steps": 3,
        "batch": 3,
        "min_blocks": 1,
        "max_blocks": 3,
        "max_coarse": 1,
        "raw_tokens": 9,
        "scored_tokens": 7,
        "weights": LossWeights(**ALL),
    }
    return GistStage(**(given | changes))


def config(*stages, **changes):
    return GistTrainConfig(**({"stages": stages or (stage(),), "code_share": 0.0} | changes))


def data(tokenizer, bundle=None, ids=None, **changes):
    documents = [Document("a", ids_of(3000, 1) if ids is None else ids)]
    sampler = WindowSampler(documents, [], 0.0, tokenizer, PlantedConfig())
    return GistData(random_bundle(tokenizer, **changes) if bundle is None else bundle, sampler)


def weights_of(bundle):
    return {
        f"{prefix}.{name}": one.detach().clone()
        for prefix, part in bundle.parts()
        for name, one in part.state_dict().items()
    }


def moved(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("base", ["frozen", "trained", "lora"])
@pytest.mark.parametrize("slots", [1, 2])
def test_all_that_a_stage_trains_moves_is_saved_and_nothing_else_moves(tokenizer, tmp_path, base, slots):
    weights = LossWeights(**(ALL | {"next_gist": 0.0 if slots > 1 else 0.1}))
    given = data(tokenizer, gistnet=GistNetConfig(heads=2, slots=slots, pooling="query"))
    before = weights_of(given.bundle)
    train_gists(config(stage(base=base, weights=weights)), given, Silent())
    after = weights_of(given.bundle)
    changed = moved(before, after)
    gistnet = {name for name in before if name.startswith("gistnet.")}
    own = {name for name in before if name.startswith("base.")}
    assert gistnet <= changed
    if base == "frozen":
        assert not own & changed
    if base == "trained":
        still = own - changed
        assert not still, still
    if base == "lora":
        linear = {
            f"base.{name}.weight"
            for name, one in given.bundle.base.named_modules()
            if isinstance(one, torch.nn.Linear) and min(one.weight.shape) > 1
        }
        assert own & changed == linear
    assert not {name for name in changed if name.startswith(("address.", "lens."))}
    assert set(before) == set(after), "low-rank changes must be merged into the weights that there were"
    given.bundle.save(tmp_path / "model")
    assert Bundle.load(tmp_path / "model").fingerprint() == given.bundle.fingerprint()


def test_low_rank_changes_begin_as_nothing_and_stay_when_merged(bundle):
    made = random_bundle(bundle.tokenizer).base
    ids = torch.from_numpy(ids_of(12)).long()[None]
    places = torch.arange(12)[None]

    def said():
        with torch.no_grad():
            return made(made.embed(ids), places, ids=ids)

    before = said()
    with low_rank(made, 2) as parameters:
        torch.testing.assert_close(said(), before)
        with torch.no_grad():
            for one in parameters:
                one.add_(0.3)
        changed = said()
    assert not torch.allclose(changed, before, atol=1e-3)
    torch.testing.assert_close(said(), changed)
    assert all(one.requires_grad for one in made.parameters())


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tokenizer):
    runs = []
    for seed in (0, 0, 1):
        given = data(tokenizer)
        train_gists(config(stage(base="trained"), seed=seed), given, Silent())
        runs.append(given.bundle.fingerprint())
    assert runs[0] == runs[1] != runs[2]


def test_random_tokens_are_not_learnable_below_the_logarithm_of_the_vocabulary(tokenizer):
    """Targets that are off by one, or seen through a gist, would fall far below it."""
    drawn = ids_of(60_000, 3, vocabulary=VOCABULARY - 9)
    given = data(tokenizer, ids=drawn)
    weights = LossWeights(horizon=1.0, plain=0.5)
    trained = stage(base="trained", weights=weights, steps=100, batch=8, max_coarse=0, lr=3e-3, base_lr=3e-3)
    figures = train_gists(config(trained), given, Silent())
    floor = math.log(VOCABULARY - 9)
    assert figures["one_horizon_last"] > floor - 0.1 and figures["one_plain_last"] > floor - 0.1
    assert figures["one_horizon_last"] < figures["one_horizon_first"], "it must learn the marginal at least"


def told_once(count, seed=0):
    """Stretches of 3 * K + 8 tokens whose last token stands once, early in the second block, and cannot be guessed."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(100, 120, (count, 3 * K + 8))
    rows[:, K + 1] = rows[:, -1] = rng.integers(200, 206, count)
    return rows.astype(np.int64)


class ToldOnce:
    """A sampler of such stretches in which the last token alone counts."""

    def batch(self, rng, count, window, planted_share):
        counted = np.zeros((count, window.scored_tokens), dtype=bool)
        counted[:, -1] = True
        return told_once(count, int(rng.integers(1 << 30))), counted


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_after_training_wrong_gists_and_the_mean_score_worse_than_right_ones_in_two_seeds(tokenizer, pooling):
    window = EmbeddingWindow(block_size=K, blocks=3, raw_tokens=4, scored_tokens=4)
    for seed in (0, 1):
        bundle = random_bundle(tokenizer, seed, gistnet=GistNetConfig(heads=2, pooling=pooling))
        trained = stage(
            base="trained", steps=200, batch=24, min_blocks=3, max_coarse=0, raw_tokens=4, scored_tokens=4,
            weights=LossWeights(horizon=1.0), lr=5e-3, base_lr=5e-3,
        )  # fmt: skip
        train_gists(config(trained, seed=seed), GistData(bundle, ToldOnce()), Silent())
        ids, wrong = torch.from_numpy(told_once(64, 77)), torch.from_numpy(told_once(64, 78))
        with torch.inference_mode():
            nats = {
                arm: one[:, -1].mean().item()
                for arm, one in arms_nats(bundle, window, ids=ids, wrong=wrong).items()
            }
        assert nats["gists"] < nats["drop"] - 0.5 and nats["gists"] < nats["wrong"] - 0.5
        assert nats["none"] > math.log(6) - 0.3


def test_the_curriculum_reaches_its_blocks_in_the_first_half_of_a_stage(tokenizer):
    from megacontext.train.gists.loop import _Training

    one = stage(steps=40, min_blocks=1, max_blocks=9)
    training = _Training(config(one), data(tokenizer), Silent())
    seen = [training._window(one, step).blocks for step in range(40)]
    assert set(seen[:4]) <= {1, 2, 3} and max(seen[:10]) <= 6 and max(seen[20:]) >= 7
    assert min(seen) >= 1 and max(seen) <= 9
    for step in range(40):
        training._window(stage(steps=40, min_blocks=0, max_blocks=0, max_coarse=1), step)


def test_telemetry_has_the_stage_and_the_losses(tokenizer):
    telemetry = Silent()
    train_gists(
        config(stage(steps=12, weights=LossWeights(plain=1.0, horizon=1.0), base="trained")),
        data(tokenizer),
        telemetry,
    )
    assert [row["step"] for _, row in telemetry.rows] == [10, 12]
    assert all(
        row["stage"] == "one" and row["lm_loss_nats"] > 0 and row["loss_nats"] > 0
        for _, row in telemetry.rows
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LossWeights(), "nor all 0"),
        (lambda: LossWeights(horizon=-1.0, plain=1.0), "not be negative"),
        (lambda: stage(gistnet="frozen"), "must train something"),
        (lambda: stage(weights=LossWeights(plain=1.0)), "must train the base"),
        (lambda: stage(min_blocks=4), r"0 <= min_blocks <= max_blocks"),
        (lambda: stage(lr=0.0), "positive rates"),
        (lambda: stage(planted_share=1.5), r"planted_share must lie in \[0, 1\]"),
        (lambda: config(stage(), stage()), "names of their own"),
        (lambda: GistTrainConfig(), "at least one stage"),
        (lambda: config(code_share=1.0, code=()), r"code_share must lie in \[0, 1\]"),
        (lambda: config(gistnet=GistNetConfig(slots=2)), "next_gist foretells gists of one vector"),
        (lambda: config(lora_rank=0), "lora_rank"),
        (lambda: config(seed=-1), "seed must not be negative"),
    ],
)
def test_recipes_that_cannot_be_are_refused(make, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make()


RECIPE = """
trainer = "gists"
initial = "toy"
documents = ["book.txt"]
code_share = 0.0
planted = {{ keys = 2, questions = 2 }}
gistnet = {{ heads = 2, pooling = "cls" }}
[[stages]]
name = "say"
steps = 3
batch = 2
min_blocks = 1
max_blocks = 2
raw_tokens = 8
scored_tokens = 60
weights = {{ reconstruction = 1.0, separation = 0.05 }}
[[stages]]
name = "follow"
steps = 3
batch = 2
min_blocks = {blocks}
max_blocks = {blocks}
raw_tokens = 8
scored_tokens = 60
base = "lora"
planted_share = 0.5
weights = {{ horizon = 1.0, teacher = 1.0 }}
"""


@pytest.fixture
def place(tmp_path, bundle_folder, monkeypatch):
    write_book(tmp_path / "book.txt", 9000)
    (tmp_path / "toy").symlink_to(bundle_folder)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(blocks=8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_makes_a_bundle_that_the_suites_read(place, capsys):
    assert main(["train", "recipe.toml", "--out", "made", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    made, before = Bundle.load(place / "made"), Bundle.load(place / "toy")
    assert made.config.gistnet.pooling == "cls"
    assert made.fingerprint("address", "lens") == before.fingerprint("address", "lens")
    assert made.fingerprint("base") != before.fingerprint("base")
    assert {"say_reconstruction_last", "follow_horizon_first", "follow_teacher_last"} <= set(told["metrics"])
    assert (place / "made" / "recipe.toml").is_file() and (place / "made" / "metrics.json").is_file()
    genres = 'genres=[{name="facts", measured=["book.txt"], planted=true}]'
    given = ["eval", "delta-nll", "--model", "made", "--n", "3", "--set", genres]
    assert main([*given, "planted_blocks=12", "distances=[64]"]) == 2
    assert "must be held out, made was trained on book.txt" in capsys.readouterr().err
    write_book(place / "other.txt", 9000, start=40_000)
    genres = genres.replace("book.txt", "other.txt")
    given = ["eval", "delta-nll", "--model", "made", "toy", "--n", "3", "--set", genres, "planted={keys=2}"]
    assert main([*given, "planted_blocks=12", "distances=[64]", "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["results"]["cells"]
    assert [(cell["cell"], cell["horizon"]) for cell in cells] == [("facts LOD1 at 64", 128)] * 3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--resume", "runs/x"), "neither resumes nor logs"),
        (("--set", "initial=absent"), "absent"),
        (("--set", "documents=['absent.txt']"), "absent.txt"),
        (("--set", "stage=3"), "stage"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_leaves_no_run(place, capsys, options, sentence):
    assert main(["train", "recipe.toml", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (place / "runs").exists()


def test_windows_longer_than_every_document_are_refused_before_training(place):
    (place / "recipe.toml").write_text(RECIPE.format(blocks=9000))
    assert main(["train", "recipe.toml"]) == 2
    assert not (place / "runs").exists()


def test_a_new_net_begins_as_the_mean_and_the_other_parts_are_the_bundle_s(place):
    made = load_gist_data(
        replace(
            config(stage(raw_tokens=8)),
            initial="toy",
            documents=("book.txt",),
            gistnet=GistNetConfig(heads=2),
        )
    )
    before = Bundle.load(place / "toy")
    assert made.bundle.fingerprint("base", "address", "lens") == before.fingerprint("base", "address", "lens")
    rows = torch.randn(2, K, made.bundle.base.width)
    assert torch.equal(made.bundle.gistnet(rows, 1), rows.mean(dim=1))
