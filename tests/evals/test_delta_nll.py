"""Delta-NLL: arms that must agree agree, the tables are the windows' arithmetic, and headroom gates what is said."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch
from toys import K, ids_of, random_bundle, write_book

from megacontext.cli import main
from megacontext.errors import ConfigError
from megacontext.evals.delta_nll import DeltaNllConfig, arms_nats, prepare_delta
from megacontext.evals.delta_tables import delta_results
from megacontext.evals.language_windows import Genre
from megacontext.gistnet.gist import GistNetConfig
from megacontext.runtime.embedding_windows import EmbeddingWindow

SHAPE = EmbeddingWindow(block_size=K, blocks=3, raw_tokens=64, scored_tokens=12)


def rows(seed, count=2):
    return torch.from_numpy(ids_of(count * SHAPE.tokens, seed).reshape(count, -1)).long()


@torch.inference_mode()
def test_arms_read_the_same_tokens_and_differ_in_the_distant_part_alone(bundle):
    ids, wrong = rows(0), rows(1)
    nats = arms_nats(bundle, SHAPE, ids=ids, wrong=wrong, elsewhere=rows(2))
    assert {one.shape for one in nats.values()} == {(2, 12)}
    assert all(torch.isfinite(one).all() for one in nats.values())
    other = ids.clone()
    other[:, : SHAPE.distant_tokens - 3] = 5
    changed = arms_nats(bundle, SHAPE, ids=other, wrong=wrong, elsewhere=rows(2))
    for arm in ("drop", "none", "wrong", "elsewhere"):
        assert torch.equal(nats[arm], changed[arm]), arm
    for arm in ("full", "gists", "mean"):
        assert not torch.equal(nats[arm], changed[arm]), arm


@torch.inference_mode()
def test_wrong_gists_of_the_right_document_are_the_gists(bundle):
    ids = rows(0)
    nats = arms_nats(bundle, SHAPE, ids=ids, wrong=ids)
    assert torch.equal(nats["wrong"], nats["gists"])


@torch.inference_mode()
def test_an_untrained_net_is_the_mean_and_drops_as_many_tokens_as_it_has_slots(tokenizer):
    for slots in (1, 2):
        made = random_bundle(tokenizer, gistnet=GistNetConfig(heads=2, slots=slots))
        for name in ("head.weight", "head.bias"):
            made.gistnet.get_parameter(name).zero_()
        ids = rows(0)
        nats = arms_nats(made, SHAPE, ids=ids, wrong=rows(1))
        assert torch.equal(nats["gists"], nats["mean"])
        other = ids.clone()
        other[:, SHAPE.distant_tokens - 3 * slots - 1] += 1
        assert torch.equal(arms_nats(made, SHAPE, ids=other, wrong=rows(1))["drop"], nats["drop"])
        other[:, SHAPE.distant_tokens - 3 * slots] += 1
        assert not torch.equal(arms_nats(made, SHAPE, ids=other, wrong=rows(1))["drop"], nats["drop"])


def frame(headroom, gain, wrong=0.1, models=("m",), noise=0.01, n=40):
    rng = np.random.default_rng(0)
    drop = rng.normal(3, 0.5, n)
    return pl.DataFrame(
        [
            {
                "cell": "prose LOD1 at 64", "genre": "prose", "lod": 1, "distance": 64, "model": model, "positions": 12,
                "document": "d", "segment": f"d:{at // 2}", "start": at, "wrong_document": "w",
                "full_32": drop[at] - headroom, "drop_32": drop[at], "none_32": drop[at] + 0.1,
                "gists_32": drop[at] - gain + shift + rng.normal(0, noise),
                "mean_32": drop[at] + 0.05 + rng.normal(0, noise),
                "wrong_32": drop[at] - gain + wrong + shift + rng.normal(0, noise),
            }
            for model, shift in zip(models, (0.0, 0.02), strict=False)
            for at in range(n)
        ]
    )  # fmt: skip


def test_tables_are_the_arithmetic_of_the_windows():
    (cell,) = delta_results(frame(0.3, 0.15), (32,))["cells"]
    assert cell["headroom"]["mean"] == pytest.approx(0.3) and cell["readable"]
    assert cell["gists_minus_drop"]["mean"] == pytest.approx(-0.15, abs=0.01)
    assert cell["wrong_minus_gists"]["mean"] == pytest.approx(0.1, abs=0.01)
    assert cell["of_headroom"] == pytest.approx(0.5, abs=0.05)
    assert cell["arms"]["gists"]["minus_full"]["mean"] == pytest.approx(0.15, abs=0.01)
    assert cell["windows"] == 40 and cell["segments"] == 20


def test_what_holds_at_three_errors_is_said_and_what_does_not_is_said_too():
    held = delta_results(frame(0.3, 0.15), (32,))["sentences"][0]
    assert "beat drop by 0.149" in held and "do not" not in held and "claim needs 200" in held
    worse = delta_results(frame(0.3, -0.2, wrong=0.0), (32,))["sentences"][0]
    assert "do not beat drop (+0.2" in worse and "wrong document" in worse


def test_too_little_headroom_leaves_nothing_to_read():
    results = delta_results(frame(0.09, 0.08), (32,))
    assert "no figure of its gists means anything" in results["sentences"][0]
    (row,) = results["tables"][1]["rows"]
    assert row[5] == "no" and row[-1] == "–"


def test_the_mean_of_models_stands_beside_them():
    cells = delta_results(frame(0.3, 0.15, models=("a", "b")), (32,))["cells"]
    assert [cell["model"] for cell in cells] == ["a", "b", "mean of 2"]
    gains = [cell["gists_minus_drop"]["mean"] for cell in cells]
    assert gains[2] == pytest.approx(sum(gains[:2]) / 2)
    assert cells[2]["windows"] == 40


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"distances": (64, 63)}, r"need 64 raw tokens before them, got distances \[64, 63\]"),
        ({"lods": (3,)}, "lods are 1 and 2"),
        ({"n": 0}, "at least 1"),
        ({"horizons": ()}, "a horizon at least"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_configurations_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        DeltaNllConfig(**changes)


@pytest.fixture
def place(tmp_path, bundle_folder, monkeypatch):
    """A working folder with a model and two books."""
    shutil.copytree(bundle_folder, tmp_path / "toy")
    write_book(tmp_path / "book.txt", 9000)
    write_book(tmp_path / "other.txt", 9000, start=40_000)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GENRES = 'genres=[{name="prose", measured=["book.txt"], others=["other.txt"]}]'
TOY = ("--model", "toy", "--n", "5")


def test_a_suite_ends_with_rows_tables_and_a_report(place, capsys):
    sizes = [GENRES, "blocks=2", "horizons=[8,16]", "distances=[64,70]", "batch=2"]
    assert main(["eval", "delta-nll", *TOY, "--set", *sizes, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    run = place / "runs" / "eval-delta-nll"
    assert told["results"] == json.loads((run / "results.json").read_text())
    windows = pl.read_parquet(run / "windows.parquet")
    # One genre, two levels, two distances.
    assert windows.height == 4 * 5 == len((run / "answers.jsonl").read_text().splitlines())
    assert len(told["results"]["cells"]) == 8
    html = (run / "report.html").read_text()
    assert "What gists are judged by" in html and "Delta-NLL over the next 16 tokens" in html


def test_the_same_command_gives_the_same_figures(place, capsys):
    given = ["eval", "delta-nll", *TOY, "--set", GENRES, "blocks=2", "horizons=[8]", "lods=[1]", "--json"]
    results = []
    for _ in range(2):
        assert main(given) == 0
        results.append(json.loads(capsys.readouterr().out)["results"])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--budget", "99"), "budget is for suites of questions"),
        (("--arms", "bm25"), "arms is for suites of questions"),
        (("--keep-memories",), "keeps nothing in a memory"),
        (("--set", "block=3"), "block"),
        (("--model", "toy", "nowhere"), "nowhere"),
        (("--book", "absent.txt"), "absent.txt"),
    ],
)
def test_bad_input_ends_in_a_sentence_and_exit_code_2(place, capsys, options, sentence):
    assert main(["eval", "delta-nll", "--model", "toy", "--n", "2", *options]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not (place / "runs").exists()


def test_suites_of_questions_take_one_model_and_no_set(place, capsys):
    assert main(["eval", "facts", "--model", "toy", "toy"]) == 2
    assert "is put to one model, got 2" in capsys.readouterr().err
    assert main(["eval", "facts", "--model", "toy", "--set", "n=3"]) == 2
    assert "set is for suites of plain text" in capsys.readouterr().err


def test_what_is_read_is_checked_before_anything_is_written(place):
    short = Genre(name="prose", measured=("book.txt",), others=("other.txt",))
    with pytest.raises(ConfigError, match="no document of prose is as long"):
        prepare_delta(DeltaNllConfig(models=("toy",), genres=(short,), blocks=10_000, lods=(1,)))
