"""Gist tokens: two passes give what one masked pass gives, and nothing hidden is seen but through its gist."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import ids_of, random_base

from megacontext.errors import ConfigError, ShapeError
from megacontext.models.entries import CacheEntries, put_entries
from megacontext.models.gist_tokens import (
    GistTokens,
    GistTokensConfig,
    families,
    joined,
    read_with_gists,
)
from megacontext.models.gpt import NO_TOKEN
from megacontext.models.windows import Sight

K = 4
DIALECTS = ["classic", "current"]


@pytest.fixture(scope="module", params=DIALECTS)
def base(request):
    return random_base(dialect=request.param, n_layer=4, n_kv_head=1, sequence_len=2048)


def closing(base, left=0, mean=True):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = GistTokensConfig(left_tokens=left, mean_input=mean)
        return GistTokens(config, width=base.width, block_size=K)


def tokens(count, seed=0):
    return torch.from_numpy(ids_of(count, seed).astype("int64"))


class OnePass:
    """A cache for the GPT that holds nothing: the mask alone says who sees whom."""

    def __init__(self, mask):
        self.mask, self.length = mask[None, None], 0
        self.batch, self.room = 1, len(mask)

    def has_room(self, batch, entries):
        return True

    def sight(self, window, entries, padding):
        return Sight(0, self.mask, causal=False)

    def last(self):
        return None

    def remember(self, givers, is_token):
        pass

    def extend(self, layer, keys, values, first):
        return keys, values

    def count(self, entries):
        pass


def cut(levels, ids):
    """Entries (level, tokens) of a timeline: level 0 is a block that stays raw."""
    entries, at = [], 0
    for level in levels:
        width = K ** max(1, level)
        entries.append((level, ids[at : at + width]))
        at += width
    return entries


def length_of(levels):
    return sum(K ** max(1, level) for level in levels)


class Written:
    """One sequence with everything in it: hidden tokens and what closes them, then the context's tokens.

    Between stretches of tokens that are no neighbours stands a place that nobody sees: smear goes from place to place.
    """

    def __init__(self):
        self.ids, self.level, self.position, self.sees = [], [], [], []

    def add(self, token, position, sees, level=0):
        at = len(self.ids)
        self.ids.append(token)
        self.level.append(level)
        self.position.append(position)
        self.sees.append([*sees, at])
        return at

    def block(self, row, position):
        inside = []
        for place, token in enumerate(row.tolist()):
            inside.append(self.add(token, position - K + place, inside))
        return self.add(NO_TOKEN, position, inside, level=1)

    def node(self, level, row, position):
        if level == 1:
            return self.block(row, position)
        below = [
            self.node(level - 1, part, position - K + place) for place, part in enumerate(row.view(K, -1))
        ]
        return self.add(NO_TOKEN, position, below, level=level)


def in_one_pass(base, closing_tokens, entries):
    """Hidden states of the context's raw tokens, in order."""
    written, seen, position, later = Written(), [], 0, []
    for level, row in entries:
        if level:
            seen.append(written.node(level, row, position))
            position += 1
        else:
            later.append((position, row, len(seen)))
            position += len(row)
            seen.append(None)
    raw = []
    known = {}
    for position, row, behind in later:
        if not behind or entries[behind - 1][0]:
            written.add(NO_TOKEN, 0, [])
        for place, token in enumerate(row.tolist()):
            before = [
                one for at in range(behind) for one in ([seen[at]] if seen[at] is not None else known[at])
            ]
            known.setdefault(behind, [])
            at = written.add(token, position + place, [*before, *known[behind]])
            known[behind].append(at)
            raw.append(at)
    mask = torch.zeros(len(written.ids), len(written.ids), dtype=torch.bool)
    for query, keys in enumerate(written.sees):
        mask[query, keys] = True
    ids, level = torch.tensor([written.ids]), torch.tensor([written.level])
    embeddings = base.embed(ids.clamp_min(0))
    for at in range(1, 3):
        closes = (level == 1) if at == 1 else (level >= 2)
        embeddings = torch.where(closes[..., None], closing_tokens.level[at - 1], embeddings)
    for at in (level[0] == 1).nonzero().flatten().tolist() if closing_tokens.config.mean_input else []:
        embeddings[0, at] += base.embed(ids[0, at - K : at]).mean(dim=0)
    positions = torch.tensor([written.position], dtype=torch.float64)
    hidden = base(embeddings, positions, ids=ids, cache=OnePass(mask))
    return hidden[0, raw]


def gist_of(base, closing_tokens, level, row):
    """Entries (L, 1, 1, Hkv, D) of one node, by itself."""
    if level == 1:
        return closing_tokens.of_blocks(base, row[None])
    below = joined([gist_of(base, closing_tokens, level - 1, part) for part in row.view(K, -1)])
    return closing_tokens.of_gists(base, families(below, K), level)


def laid_out(entries):
    """Ids, positions and columns of gists of one context (1, W)."""
    ids, columns = [], []
    for level, row in entries:
        if level:
            columns.append(len(ids))
            ids.append(NO_TOKEN)
        else:
            ids += row.tolist()
    return torch.tensor([ids]), torch.arange(len(ids), dtype=torch.float64)[None], torch.tensor(columns)


def in_two_passes(base, closing_tokens, entries):
    """The same by gists of all nodes first, and then one packed pass over the context."""
    ids, positions, columns = laid_out(entries)
    gists = joined([gist_of(base, closing_tokens, level, row) for level, row in entries if level])
    hidden = read_with_gists(base, ids, positions, gists, (torch.zeros_like(columns), columns))
    return hidden[0, ids[0] >= 0]


LEVELS = st.lists(st.integers(0, 3), min_size=1, max_size=6).filter(
    lambda levels: any(levels) and 0 in levels
)


@given(levels=LEVELS, seed=st.integers(0, 99), mean=st.booleans())
@settings(max_examples=15)
def test_two_passes_give_what_one_masked_pass_gives(levels, seed, mean, base):
    closing_tokens, entries = closing(base, mean=mean), cut(levels, tokens(length_of(levels), seed))
    with torch.no_grad():
        one, two = (way(base, closing_tokens, entries) for way in (in_one_pass, in_two_passes))
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)


@given(levels=LEVELS, seed=st.integers(0, 99))
@settings(max_examples=15)
def test_one_node_at_a_time_put_into_a_cache_reads_as_the_packed_pass_does(levels, seed, base):
    closing_tokens, entries = closing(base), cut(levels, tokens(length_of(levels), seed))
    with torch.no_grad():
        packed = in_two_passes(base, closing_tokens, entries)
        cache, found, at = base.reserve(1, length_of(levels)), [], 0
        for level, row in entries:
            if level:
                gist = gist_of(base, closing_tokens, level, row)
                put_entries(base, cache, gist, torch.tensor([[float(at)]]))
                at += 1
            else:
                where = torch.arange(at, at + K)[None]
                found.append(base(base.embed(row[None]), where, ids=row[None], cache=cache)[0])
                at += K
    torch.testing.assert_close(torch.cat(found), packed, atol=1e-5, rtol=0)


@given(levels=LEVELS, seed=st.integers(0, 99), data=st.data())
@settings(max_examples=25)
def test_a_hidden_token_is_seen_by_nothing_before_it_and_later_only_through_its_gist(
    levels, seed, data, base
):
    closing_tokens, entries = closing(base), cut(levels, tokens(length_of(levels), seed))
    which = data.draw(st.sampled_from([at for at, (level, _) in enumerate(entries) if level]))
    place = data.draw(st.integers(0, len(entries[which][1]) - 1))
    changed = [(level, row.clone()) for level, row in entries]
    changed[which][1][place] = (changed[which][1][place] + 7) % 500
    before = sum(len(row) for level, row in entries[:which] if not level)
    with torch.no_grad():
        old, new = (in_two_passes(base, closing_tokens, one) for one in (entries, changed))
        # With the old gist in its place, nothing at all changes.
        gists = joined([gist_of(base, closing_tokens, level, row) for level, row in entries if level])
        ids, positions, columns = laid_out(changed)
        hidden = read_with_gists(base, ids, positions, gists, (torch.zeros_like(columns), columns))
    assert torch.equal(new[:before], old[:before])
    assert torch.equal(hidden[0, ids[0] >= 0], old)
    if before < len(old):
        assert not torch.equal(new[before:], old[before:])


@pytest.mark.parametrize("left", [1, 3, 9])
def test_a_gist_depends_on_its_left_tokens_and_on_those_alone(left, base):
    closing_tokens, row = closing(base, left), tokens(left + K)[None]
    begin = torch.full((1, left), NO_TOKEN)
    with torch.no_grad():
        gist = closing_tokens.of_blocks(base, row)
        other = row.clone()
        other[0, 0] += 1
        moved = closing_tokens.of_blocks(base, other)
        first = closing_tokens.of_blocks(base, torch.cat((begin, row[:, left:]), dim=1))
        alone = closing(base).of_blocks(base, row[:, left:])
        together = closing_tokens.of_blocks(base, torch.cat((row, torch.cat((begin, row[:, left:]), dim=1))))
    assert not torch.equal(gist.values, moved.values)
    torch.testing.assert_close(first.packed(), alone.packed(), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.packed()[:1], gist.packed(), atol=1e-5, rtol=0)
    torch.testing.assert_close(together.packed()[1:], first.packed(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("mean", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_each_level_has_one_layer_less_that_holds_content(level, mean, base):
    """In its first layer a gist token has attended to nothing, in the second to what was so below: and so on.

    The mean of a block's embeddings is one more.
    """
    closing_tokens = closing(base, mean=mean)
    with torch.no_grad():
        one, two = (gist_of(base, closing_tokens, level, tokens(K**level, seed)) for seed in (0, 1))
    for layer in range(4):
        same = torch.allclose(one.keys[layer], two.keys[layer], atol=1e-6) and torch.allclose(
            one.values[layer], two.values[layer], atol=1e-6
        )
        assert same == (layer < level - mean), layer


def test_the_loss_behind_gists_reaches_every_weight(base):
    closing_tokens = closing(base)
    entries = cut([2, 0, 1, 0], tokens(length_of([2, 0, 1, 0])))
    base.requires_grad_(True).zero_grad()
    in_two_passes(base, closing_tokens, entries).square().mul(torch.arange(base.width) + 1.0).sum().backward()
    silent = {"lm_head.weight"}
    for name, parameter in base.named_parameters():
        assert name in silent or parameter.grad.abs().sum() > 0, name
    assert (closing_tokens.level.grad.abs().sum(dim=1) > 0).all()
    base.zero_grad()


def test_what_is_no_whole_block_or_family_is_refused(base):
    closing_tokens = closing(base, left=2)
    with pytest.raises(
        ShapeError, match=r"of 4 tokens and 2 before them, got rows \(1, 4\); cut whole blocks"
    ):
        closing_tokens.of_blocks(base, tokens(K)[None])
    gists = CacheEntries(torch.zeros(2, 1, 3, 1, 16), torch.zeros(2, 1, 3, 1, 16))
    with pytest.raises(ShapeError, match="closes 4 gists, got 3 for lod 2"):
        closing_tokens.of_gists(base, gists, 2)
    with pytest.raises(ConfigError, match="must not be negative, got -1; use 0 for the block alone"):
        GistTokensConfig(left_tokens=-1)


def test_gists_and_their_places_must_be_as_many(base):
    with torch.no_grad():
        gists = closing(base).of_blocks(base, tokens(2 * K).view(2, K))
    ids, at = torch.full((1, 3), NO_TOKEN), torch.tensor([0])
    with pytest.raises(ShapeError, match=r"every place of a gist needs one, got .* for 1 places"):
        read_with_gists(base, ids, torch.arange(3.0)[None], gists, (at, at))


def test_a_model_that_holds_no_entries_makes_no_gists(base):
    class Other:
        def embed(self, ids):
            return base.embed(ids)

        def reserve(self, batch, room):
            return base.reserve(batch, room)

        def __call__(self, *given, **named):
            return base(*given, **named)

    with pytest.raises(ShapeError, match="need a model that holds entries, got Other"):
        closing(base).of_blocks(Other(), tokens(K)[None])
