"""Windows of held-out text: no token scored twice, wrong gists from elsewhere, nothing measured that was trained on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import prose

from megacontext.corpus.documents import Document
from megacontext.errors import ConfigError
from megacontext.evals.language_windows import (
    CODE,
    FACTS,
    PROSE,
    SEGMENT,
    Genre,
    batches,
    check_held_out,
    cut_windows,
    load_models,
    measured_prose,
    planted_windows,
)
from megacontext.runtime.embedding_windows import EmbeddingWindow
from megacontext.runtime.planted_windows import PlantedConfig


def document(name, tokens, seed=0):
    return Document(name, np.random.default_rng(seed).integers(0, 500, tokens, dtype=np.int32))


@given(
    tokens=st.integers(20, 60),
    last=st.integers(1, 19),
    lengths=st.lists(st.integers(10, 300), min_size=1, max_size=4),
    n=st.integers(1, 20),
)
@settings(max_examples=60)
def test_windows_are_whole_stretches_and_score_no_token_twice(tokens, last, lengths, n):
    documents = [document(str(at), length, at) for at, length in enumerate(lengths)]
    pool = [*documents, document("other", 100, 9)]
    if max(lengths) < tokens:
        with pytest.raises(ConfigError, match="no document of prose is as long"):
            cut_windows("prose", documents, pool, tokens, last, n, 0)
        return
    made = cut_windows("prose", documents, pool, tokens, last, n, 0)
    assert 1 <= len(made) <= n
    by_name = {one.name: one.ids for one in documents}
    places = set()
    for one in made:
        own = by_name[one.document]
        assert (one.ids == own[one.start : one.start + tokens]).all() and len(one.ids) == tokens
        assert one.wrong_document != one.document and len(one.wrong) == tokens
        mine = {(one.document, at) for at in range(one.start + tokens - last, one.start + tokens)}
        assert not mine & places
        places |= mine


def test_a_window_elsewhere_is_of_the_same_document_and_far_away():
    long, short = document("long", 40_000), document("short", 100, 1)
    made = cut_windows("prose", [long, short], [long, short], 60, 20, 50, 0)
    near = [one for one in made if one.document == "long"]
    assert near and all(one.elsewhere is not None for one in near)
    for one in near:
        stretches = np.lib.stride_tricks.sliding_window_view(long.ids, 60)
        places = np.flatnonzero((stretches == one.elsewhere).all(axis=1))
        assert min(abs(at - one.start) for at in places) >= 4 * SEGMENT
    assert all(one.elsewhere is None for one in made if one.document == "short")
    sizes = [len(part) for part in batches(made, 8)]
    assert sum(sizes) == len(made) and max(sizes) <= 8
    for part in batches(made, 8):
        assert len({one.elsewhere is None for one in part}) == 1


def test_the_same_seed_gives_the_same_wrong_windows_and_another_seed_others():
    documents = [document("a", 3000), document("b", 3000, 1)]
    one, same, other = (cut_windows("x", documents, documents, 50, 10, 9, seed) for seed in (0, 0, 1))
    assert all((a.wrong == b.wrong).all() for a, b in zip(one, same, strict=True))
    assert any((a.wrong != b.wrong).any() for a, b in zip(one, other, strict=True))
    assert all((a.ids == b.ids).all() for a, b in zip(one, other, strict=True))


def test_one_document_alone_has_no_wrong_gists():
    only = [document("only", 500)]
    with pytest.raises(ConfigError, match="need another one of 50 tokens beside only"):
        cut_windows("prose", only, only, 50, 10, 3, 0)


def test_a_model_is_not_measured_on_what_its_recipe_names(tmp_path):
    (tmp_path / "recipe.toml").write_text('documents = ["emma", "pride-and-prejudice"]\n')
    with pytest.raises(ConfigError, match=r"must be held out, .* was trained on pride-and-prejudice"):
        check_held_out([str(tmp_path)], [PROSE, CODE])
    check_held_out([str(tmp_path)], [CODE])
    check_held_out([str(tmp_path / "without")], [PROSE])


def test_models_of_one_run_are_told_apart_and_share_a_vocabulary(bundle_folder, tmp_path):
    assert list(load_models([str(bundle_folder)])) == ["toy"]
    with pytest.raises(ConfigError, match="/toy is given twice"):
        load_models([str(bundle_folder)] * 2)
    with pytest.raises(ConfigError, match="must share vocabulary and block size, toy, tiny do not"):
        load_models([str(bundle_folder), "tiny"])
    with pytest.raises(ConfigError, match="needs a model"):
        load_models([])


def test_another_book_takes_the_place_of_prose_and_gives_no_wrong_gists_to_itself():
    prose, facts = measured_prose((PROSE, CODE, FACTS), "northanger-abbey")
    assert prose.measured == facts.measured == ("northanger-abbey",) and prose.others == ()
    assert facts.planted and not prose.planted
    (kept,) = measured_prose((Genre(name="prose", measured=("a",), others=("b",)),), "c")
    assert kept.others == ("b",)


def test_planted_windows_ask_for_what_stands_in_their_own_distant_part_alone(tokenizer):
    shape = EmbeddingWindow(block_size=8, blocks=10, raw_tokens=64, scored_tokens=60)
    book = Document("book", tokenizer.encode(prose(20_000)))
    made = planted_windows(shape, [book], tokenizer, PlantedConfig(keys=3), 6, 0)
    for at, one in enumerate(made):
        assert len(one.ids) == shape.tokens and one.counted.shape == (60,)
        distant = tokenizer.decode(one.ids[: shape.distant_tokens].tolist())
        raw = tokenizer.decode(one.ids[shape.distant_tokens : shape.distant_tokens + 64].tolist())
        answers = tokenizer.decode(one.ids[-60:][one.counted].tolist()).split()
        values = [" ".join(pair) for pair in zip(answers[::2], answers[1::2], strict=True)]
        assert values
        for value in values:
            assert value in distant and value not in raw
            assert value not in tokenizer.decode(one.wrong.tolist())
        assert (one.wrong == made[(at + 1) % 6].ids).all()
    again = planted_windows(shape, [book], tokenizer, PlantedConfig(keys=3), 6, 0)
    assert all((a.ids == b.ids).all() for a, b in zip(made, again, strict=True))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"scored_tokens": 5}, "5 scored tokens that hold a question"),
        ({"blocks": 3000}, "no book is as long"),
    ],
)
def test_windows_that_hold_no_question_and_books_too_short_are_refused(tokenizer, changes, sentence):
    shape = EmbeddingWindow(
        **{"block_size": 8, "blocks": 10, "raw_tokens": 64, "scored_tokens": 60} | changes
    )
    with pytest.raises(ConfigError, match=sentence):
        planted_windows(
            shape, [Document("b", tokenizer.encode(prose(6000)))], tokenizer, PlantedConfig(), 2, 0
        )
    with pytest.raises(ConfigError, match="got n = 1"):
        planted_windows(shape, [], tokenizer, PlantedConfig(), 1, 0)
