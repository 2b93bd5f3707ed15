"""The kinds of gists side by side: every arm reads what it says, and tables say what was measured."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from toys import K, ids_of, model_config, random_bundle, write_book

from megacontext.cli import main
from megacontext.errors import ConfigError
from megacontext.evals.gist_kinds import GistKindsConfig, _with_left, kind_costs, kinds_nats, kinds_results
from megacontext.models.gist_tokens import GistTokensConfig

G, RAW = 3, 64


@pytest.fixture(scope="module", params=[0, 5])
def bundle_of(request, tokenizer):
    return random_bundle(
        tokenizer,
        gists="tokens",
        gist_tokens=GistTokensConfig(left_tokens=request.param),
        model=model_config(n_layer=3),
    )


def windows(seed, count=2):
    shape = GistKindsConfig(blocks=G).window(K)
    return shape, torch.from_numpy(ids_of(count * shape.tokens, seed).astype("int64")).view(count, -1)


def nats_of(bundle, ids, wrong):
    with torch.inference_mode():
        return kinds_nats(bundle, windows(0)[0], ids, wrong)


def test_arms_read_the_distant_part_in_their_own_ways_and_score_the_same_tokens(bundle_of):
    (shape, ids), (_, wrong) = windows(0), windows(1)
    nats = nats_of(bundle_of, ids, wrong)
    assert set(nats) == {
        "full", "drop", "none", "embedding", "wrong embedding", "mean embedding", "mean cache", "tokens", "wrong tokens"
    }  # fmt: skip
    assert all(lost.shape == (2, K) for lost in nats.values())
    # A change of a distant token is seen by those that read it, and by no other.
    changed = ids.clone()
    changed[:, 2 * K] = (changed[:, 2 * K] + 9) % 500
    moved = {
        arm
        for arm, lost in nats_of(bundle_of, changed, wrong).items()
        if not torch.allclose(lost, nats[arm], atol=1e-6)
    }
    assert moved == {"full", "embedding", "mean embedding", "mean cache", "tokens"}
    # `drop` reads as many recent tokens as there are gists.
    changed = ids.clone()
    changed[:, shape.distant_tokens - G] += 1
    assert not torch.allclose(nats_of(bundle_of, changed, wrong)["drop"], nats["drop"], atol=1e-6)


def test_wrong_gists_are_the_right_ones_where_the_texts_are_the_same(bundle_of):
    _, ids = windows(2)
    nats = nats_of(bundle_of, ids, ids)
    for kind in ("embedding", "tokens"):
        assert torch.equal(nats[f"wrong {kind}"], nats[kind])


def test_left_tokens_of_a_block_are_those_before_it_in_its_window(bundle_of):
    _, ids = windows(3, count=1)
    left = bundle_of.config.gist_tokens.left_tokens
    rows = _with_left(bundle_of, ids[:, : G * K], K)
    assert rows.shape == (G, left + K)
    assert (rows[0, :left] == -1).all() and torch.equal(rows[:, left:].flatten(), ids[0, : G * K])
    for block in range(1, G):
        assert torch.equal(rows[block, :left], ids[0, block * K - left : block * K])


def test_costs_name_every_kind_that_the_bundle_can_make(bundle_of, tokenizer):
    costs = {row["kind"]: row for row in kind_costs(bundle_of)}
    assert set(costs) == {"embedding", "mean cache", "tokens"}
    assert costs["embedding"]["numbers"] == 32 and costs["tokens"]["numbers"] == 2 * 3 * 32
    assert costs["tokens"]["bytes_per_token"] == 2 * 192 / (K - 1)
    assert all(row["tokens_per_s"] > 0 for row in costs.values())
    assert {row["kind"] for row in kind_costs(random_bundle(tokenizer))} == {"embedding", "mean cache"}


def test_tables_pair_by_window_and_refuse_to_read_what_has_no_headroom():
    rows = [
        {"model": "m", "genre": "prose", "text": text, "segment": f"s{at // 2}", "start": at,
         "full": 3.0 - gain, "drop": 3.0 + at, "none": 3.1, "tokens": 2.8 + at, "wrong tokens": 3.3 + at}
        for text, gain in (("text", 0.0), ("said again", 1.0)) for at in range(4)
    ]  # fmt: skip
    frame = pl.DataFrame(rows).with_columns((pl.col("full") + pl.col("start")).alias("full"))
    results = kinds_results(frame, [])
    first, again = results["cells"]
    assert not first["readable"] and again["readable"] and again["headroom"]["mean"] == pytest.approx(1.0)
    assert again["arms"]["tokens"]["minus_drop"]["mean"] == pytest.approx(-0.2)
    assert again["wrong_minus_right"]["tokens"]["mean"] == pytest.approx(0.5)
    assert "too little" in results["sentences"][0] and "+0.500" in results["sentences"][1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 0}, "at least, got 1, 0, 60 and 64; raise what is too small"),
        ({"raw_tokens": 63}, "64 raw tokens at least"),
        ({"genres": ()}, "needs a genre"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_a_measurement_that_says_nothing_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        GistKindsConfig(**change)


@pytest.fixture
def place(tokenizer, tmp_path, monkeypatch):
    """A bundle with gist tokens and two books, where the command is given."""
    random_bundle(tokenizer, gists="tokens", model=model_config(n_layer=3)).save(tmp_path / "toy")
    write_book(tmp_path / "book.txt", 9000)
    write_book(tmp_path / "other.txt", 9000, start=40_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_command_measures_a_bundle_into_a_run(place, capsys):
    genre = 'genres=[{name="prose", measured=["book.txt"], others=["other.txt"]}]'
    given = ["eval", "gist-kinds", "--model", "toy", "--n", "5", "--set", genre, "blocks=3", "--json"]
    assert main(given) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [cell["text"] for cell in results["cells"]] == ["text", "said again"]
    run = place / "runs" / "eval-gist-kinds"
    windows = pl.read_parquet(run / "windows.parquet")
    assert windows.height == 10 == len((run / "answers.jsonl").read_text().splitlines())
    assert np.isfinite(windows["tokens"].to_numpy()).all()
    assert "What a kind of gist costs" in (run / "report.html").read_text()
