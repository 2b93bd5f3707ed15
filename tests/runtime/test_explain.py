"""Explanations say what was done and what was read: nothing invented, nothing left out, whatever came in between."""

import numpy as np
import pytest
from toys import K, ids_of, prose

from megacontext.focus import Edit, Rules, WorkingContext
from megacontext.focus.state import edited_node
from megacontext.runtime.explain import as_text, explain
from megacontext.runtime.live import LiveConfig, LiveSession
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tree import Memory


def live_over(bundle, encoder, ids, budget=96, *, scorer="random", layout="timeline", rules=None):
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids)
    session = Session(bundle, memory, FocusConfig(budget=budget), scorer=scorer)
    return LiveSession(session, LiveConfig(layout=layout), rules=rules or Rules())


@pytest.mark.parametrize("layout", ["timeline", "cover-first"])
@pytest.mark.parametrize("scorer", ["recency", "random", "lensnet"])
def test_at_every_point_of_a_long_session_entries_add_up_and_ranks_are_a_permutation(
    scorer, layout, bundle, encoder
):
    live = live_over(bundle, encoder, ids_of(500), scorer=scorer, layout=layout)
    for number in range(10):
        for _ in live.generate(K + 3):
            entries = live.explain()
        live.observe(ids_of(5 + number, seed=number))
        entries = live.explain()
        assert sum(entry.cost_positions for entry in entries) == live.context.cost
        found = [(entry.lod, entry.index, entry.start, entry.stop) for entry in entries]
        context = live.context
        assert found == list(
            zip(
                *(row.tolist() for row in (context.lod, context.index, context.start, context.stop)),
                strict=True,
            )
        )
        scored = [entry for entry in entries if entry.score is not None]
        assert sorted(entry.rank for entry in scored) == list(range(1, len(scored) + 1))
        by_rank = sorted(scored, key=lambda entry: entry.rank)
        assert [entry.score for entry in by_rank] == sorted((entry.score for entry in scored), reverse=True)
        assert all(entry.why == "it came after the last refocus" for entry in entries if entry.score is None)
    assert any("folded to make room" in line for entry in entries for line in entry.history)


@pytest.mark.parametrize("scorer", ["recency", "random"])
def test_the_history_of_an_entry_is_what_each_refocus_did_to_its_node_and_those_above(
    scorer, bundle, encoder
):
    """Every edit is noted by hand; what is told of an entry is the newest of them on its way up, and no other."""
    live = live_over(bundle, encoder, ids_of(500), scorer=scorer)
    noted, seen = {}, -1
    for number in range(14):
        if number:
            live.observe(ids_of(2 * K, seed=number))
        assert live.refocused.number == seen + 1, "two blocks were finished"
        seen = live.refocused.number
        for step in live.refocused.steps:
            for edit in step.edits:
                noted.setdefault(edited_node(step.context, edit), []).append((seen, edit.kind))
        for entry in live.explain():
            way, lod, index = set(), max(entry.lod, 1), entry.index
            while K**lod <= live.memory.num_tokens:
                way |= {
                    f"refocus {when}: LOD{lod} {index:,} {kind}ed".replace("collapseed", "collapsed")
                    for when, kind in noted.get((lod, index), ())
                }
                lod, index = lod + 1, index // K
            told = [line for line in entry.history if "folded" not in line]
            assert set(told) <= way
            now = {line for line in way if line.startswith(f"refocus {seen}:")}
            assert now <= set(told), "what was just done is remembered"
            when = [int(line.split(":")[0].removeprefix("refocus ")) for line in entry.history]
            assert when == sorted(when)
    assert noted


def test_what_gave_way_is_counted_and_told(bundle, encoder):
    live = live_over(bundle, encoder, ids_of(500), scorer="recency")
    told = counted = 0
    for number in range(20):
        live.observe(ids_of(K, seed=number))
        counted += live.refocused.fitted
        told += sum(
            f"refocus {live.refocused.number}:" in line and "folded" in line
            for entry in live.explain()
            for line in entry.history
        )
    assert counted > 0 and told > 0


def test_what_is_remembered_of_a_node_does_not_grow_with_the_session(bundle, encoder):
    live = live_over(bundle, encoder, ids_of(700), scorer="random")
    for number in range(60):
        live.refocus(ids_of(4, seed=number))
    assert max(map(len, live.edits.values())) <= 16
    # Nodes shown, and those above them on the way to the top.
    assert len(live.edits) <= len(live.context) * 4


def test_the_text_is_what_the_tokens_say_also_where_a_character_is_cut(bundle, encoder, tokenizer):
    """Every token of this text is a part of a character, so block boundaries fall within them."""
    text = "Zeichen: " + "æøå€𝄞—“naïveté” " * 12
    ids = tokenizer.encode(text)
    assert any("\ufffd" in tokenizer.decode(ids[at : at + K]) for at in range(0, len(ids), K)), "a fair test"
    live = live_over(bundle, encoder, ids, budget=len(ids) + 2 * K)
    entries = live.explain()
    assert len(entries) == -(-len(ids) // K) and as_text(entries) == text
    assert {entry.why for entry in entries} == {"the whole history fits the budget"}


def test_every_run_of_raw_tokens_is_in_the_text_once_and_word_for_word(bundle, encoder, tokenizer):
    ids = tokenizer.encode(prose(3000))
    memory = Memory.create(None, encoder.identity(), encoder)
    memory.append(ids)
    context = WorkingContext.cover(len(ids), K)
    for place in (0.2, 0.6, 0.61, 0.9):
        gists = np.flatnonzero(context.lod)
        context = context.edited([Edit("expand", int(gists[int(place * (len(gists) - 1))]))])
    entries = explain(context, None, {}, memory, tokenizer)
    text, expected, at = as_text(entries), [], 0
    while at < len(entries):
        end = at
        while end < len(entries) and entries[end].lod == 0:
            end += 1
        if end > at:
            expected.append(tokenizer.decode(ids[entries[at].start : entries[end - 1].stop]))
        at = max(end, at + 1)
    assert expected
    position = 0
    for run in expected:
        position = text.index(run, position) + len(run)
    gists = [entry for entry in entries if entry.lod]
    assert text.count(" gist of tokens ") == len(gists)
    for entry in gists:
        assert text.count(f"[LOD{entry.lod} gist of tokens {entry.start:,}-{entry.stop:,}: ") == 1
    marks = sum(
        len(f"\n[LOD{e.lod} gist of tokens {e.start:,}-{e.stop:,}: {' '.join(e.text.split())} ...]\n")
        for e in gists
    )
    assert len(text) == marks + sum(map(len, expected)), "and nothing else"


def test_after_a_question_what_was_read_for_it_is_explained(bundle, encoder):
    live = live_over(bundle, encoder, ids_of(600), budget=128, scorer="bm25")
    before = live.context
    live.ask(live.memory.tokens(80, 96), max_tokens=2, stop_ids=())
    opened = live.context
    assert [entry.start for entry in live.explain()] == opened.start.tolist() and opened != before
    live.observe(ids_of(1))
    assert [entry.stop for entry in live.explain()][-1] == 601
    assert live.context == before.extend(601)


def test_a_restored_session_does_not_claim_that_all_fits(bundle, encoder, tmp_path):
    live = live_over(bundle, encoder, ids_of(600), scorer="recency")
    live.save(tmp_path / "state.json")
    history = [entry.history for entry in live.explain()]
    live.restore(tmp_path / "state.json")
    entries = live.explain()
    assert {entry.why for entry in entries} == {"what the last refocus said of it is not remembered"}
    assert all(entry.score is entry.rank is None for entry in entries)
    assert [entry.history for entry in entries] == history


def test_of_a_history_of_nothing_there_is_nothing_to_explain(bundle, encoder):
    live = live_over(bundle, encoder, ids_of(0))
    assert live.explain() == [] and as_text([]) == ""


def test_what_is_pinned_says_so(bundle, encoder):
    live = live_over(bundle, encoder, ids_of(900), scorer="recency", rules=Rules(pinned=((0, K),)))
    first = live.explain()[0]
    assert first.lod == 0 and "pinned" in first.why
