"""A GPT that reads its context through a pyramid: causal, cached as read at once, and plain where nothing is far."""

import dataclasses

import pytest
import torch
from toys import K, model_config, stir

from megacontext.attention.pyramid import PyramidConfig, attend
from megacontext.attention.rotary import rotary_damping, rotary_tables, rotate
from megacontext.errors import BackendUnavailableError, ConfigError, ShapeError
from megacontext.gistnet.gist import GistNet, GistNetConfig
from megacontext.models.base import BaseModel
from megacontext.models.gpt import GPT, NO_TOKEN
from megacontext.models.pyramid import PyramidGPT
from megacontext.models.summaries import Level
from megakernels.gaussian_rope import gaussian_rope

W = 150
NEAR = PyramidConfig(window=12, block=4, spans=(24,))
# What may be added to the usual pyramid, each by itself and together.
ADDED = {
    "slots": {"slots": 2},
    "edges": {"edges": 2},
    "alibi": {"alibi": True},
    "logarithm": {"positions": "log-distance", "rotary": "none"},
    "most": {"slots": 2, "edges": 2, "alibi": True, "positions": "context"},
}


def near(**changes):
    return dataclasses.replace(NEAR, **changes)


def build(config=NEAR, dialect="current", **changes):
    """A random model in which everything has a say."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        gpt = GPT(model_config(dialect=dialect, n_kv_head=1, **changes))
        gistnet = GistNet(GistNetConfig(heads=2), width=32, block_size=config.block)
    model = PyramidGPT(gpt, gistnet, config)
    stir(model, seed=1, scale=0.2)
    return model.eval()


@pytest.fixture(scope="module", params=["classic", "current"])
def model(request):
    return build(dialect=request.param)


def drawn(width=W, batch=1):
    return torch.randint(600, (batch, width), generator=torch.Generator().manual_seed(width))


@torch.inference_mode()
def logits(model, ids, embeddings=None, positions=None):
    positions = torch.arange(ids.shape[1])[None] if positions is None else positions
    embeddings = model.embed(ids.clamp_min(0)) if embeddings is None else embeddings
    return model.unembed(model(embeddings, positions, ids=ids))


@pytest.mark.parametrize("changes", [{"rotary": "plain"}, {"rotary": "none"}, {}, *ADDED.values()], ids=str)
def test_no_later_token_changes_an_earlier_logit(changes):
    model, ids = build(near(**changes)), drawn()
    before = logits(model, ids)
    for changed in (0, 3, 4, 15, 16, 63, 64, 149):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 600
        after = logits(model, other)
        assert torch.equal(after[:, :changed], before[:, :changed]), changed
        assert not torch.equal(after[:, changed:], before[:, changed:]), changed


def test_what_is_far_reaches_the_end_through_summaries(model):
    # Tokens alone would carry it on by a window (12 to 15) in each of two layers, and smear by one.
    ids = drawn()
    other = ids.clone()
    other[0, :16] = (other[0, :16] + 1) % 600
    assert not torch.allclose(logits(model, ids)[:, -1], logits(model, other)[:, -1], atol=1e-4)


@pytest.mark.parametrize("pieces", [[1] * W, [17, 1, W - 18], [64, 64, W - 128], [W]])
def test_reading_on_behind_a_cache_gives_what_reading_at_once_gives(model, pieces):
    ids = drawn(batch=2)
    embeddings = model.embed(ids).detach()
    ids[:, 40], embeddings[:, 40] = NO_TOKEN, 0.5  # an entry that is no token
    expected = logits(model, ids, embeddings)
    cache, found = model.reserve(2, W), []
    with torch.inference_mode():
        for piece in pieces:
            span = slice(cache.length, cache.length + piece)
            positions = torch.arange(span.start, span.stop)[None]
            found.append(model.unembed(model(embeddings[:, span], positions, ids=ids[:, span], cache=cache)))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_has_a_say_and_is_cached_as_it_is_read(added):
    model, ids = build(near(**ADDED[added])), drawn(batch=2)
    expected, cache, found = logits(model, ids), model.reserve(2, W + 3), []
    assert not torch.allclose(expected, logits(build(), ids), atol=1e-3)
    with torch.inference_mode():
        for piece in (17, 1, 1, 64, W - 83):
            span = slice(cache.length, cache.length + piece)
            positions = torch.arange(span.start, span.stop)[None]
            embeddings = model.embed(ids[:, span])
            found.append(model.unembed(model(embeddings, positions, ids=ids[:, span], cache=cache)))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("added", ADDED)
def test_what_is_added_knows_distances_and_no_places(added):
    model, ids = build(near(**ADDED[added])), drawn()
    far = torch.arange(W)[None] + 123_456.5
    torch.testing.assert_close(logits(model, ids, positions=far), logits(model, ids), atol=2e-5, rtol=0)


@torch.inference_mode()
def test_overshoot_is_warned_of_sees_the_block_that_is_being_read_and_has_no_cache():
    with pytest.warns(UserWarning, match="depends on up to 3 later entries"):
        loose = build(near(overshoot=True))
    ids = drawn()
    for changed in (3, 30, 143, 149):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 600
        moved = (logits(loose, other) != logits(loose, ids)).any(dim=-1)[0].nonzero().flatten()
        # The last two of 150 tokens have no summary yet; all others are known from the beginning of their block.
        assert moved[0] == (changed // 4 * 4 if changed < 148 else changed)
    with pytest.raises(ConfigError, match=r"pyramid\.overshoot must be false with it"):
        loose.reserve(1, 8)


@torch.inference_mode()
def test_a_cache_that_was_cut_goes_on_as_if_nothing_had_followed(model):
    ids, other = drawn(), drawn(W + 1)[:, :W]
    for cut in (0, 7, 64, 65):
        cache = model.reserve(1, W)
        model(
            model.embed(other),
            torch.arange(W)[None],
            ids=torch.cat((ids[:, :cut], other[:, cut:]), 1),
            cache=cache,
        )
        cache = model.reserve(1, W)
        mixed = torch.cat((ids[:, :cut], other[:, cut:]), dim=1)
        model(model.embed(mixed), torch.arange(W)[None], ids=mixed, cache=cache)
        cache.truncate(cut)
        rest = model(model.embed(ids[:, cut:]), torch.arange(cut, W)[None], ids=ids[:, cut:], cache=cache)
        torch.testing.assert_close(model.unembed(rest), logits(model, ids)[:, cut:], atol=2e-5, rtol=0)
    with pytest.raises(ShapeError, match="cut to no more than it holds"):
        cache.truncate(W + 1)


def test_with_all_within_the_window_it_is_the_plain_model(model):
    wide = PyramidGPT(model.gpt, model.summaries.gistnet, PyramidConfig(window=W, block=4, spans=(24,)))
    ids = drawn()
    torch.testing.assert_close(logits(wide, ids), logits(model.gpt, ids), atol=1e-5, rtol=0)


def test_only_distances_count_and_context_positions_do_not_depend_on_what_is_given():
    ids, far = drawn(), torch.arange(W)[None] + 123_456.5
    torch.testing.assert_close(logits(build(), ids, positions=far), logits(build(), ids), atol=2e-5, rtol=0)
    counted = build(PyramidConfig(window=12, block=4, spans=(24,), positions="context"))
    assert torch.equal(logits(counted, ids, positions=far * 3), logits(counted, ids))
    assert not torch.allclose(logits(build(), ids, positions=far * 3), logits(build(), ids), atol=1e-3)


def test_without_rotation_positions_do_not_count():
    still = build(PyramidConfig(window=12, block=4, spans=(24,), rotary="none"))
    ids = drawn()
    assert torch.equal(logits(still, ids, positions=torch.rand(1, W)), logits(still, ids))


def test_a_summary_stands_in_the_middle_of_its_span_as_uncertain_as_the_span_is_wide():
    summaries = build().summaries
    nodes = Level(torch.randn(1, 64, 32), torch.arange(64.0).double()[None], torch.zeros(1, 64).double())
    for level, width in ((1, 4), (2, 16), (3, 64)):
        nodes = summaries.parents(nodes, level)
        assert nodes.mean[0].tolist() == [start + (width - 1) / 2 for start in range(0, 64, width)]
        torch.testing.assert_close(nodes.variance, torch.full_like(nodes.variance, (width**2 - 1) / 12))


def test_the_scale_of_the_variance_learns():
    model = build().train()
    model.unembed(model(model.embed(drawn()), torch.arange(W)[None], ids=drawn())).square().mean().backward()
    assert all(one.grad is not None and one.grad.abs().max() > 0 for one in model.summaries.parameters())


def test_rotating_norming_and_damping_is_the_kernels_turn():
    x = torch.randn(2, 9, 3, 16, generator=torch.Generator().manual_seed(0))
    mean, variance = torch.arange(9.0).double()[None] * 1e5, torch.linspace(0, 50, 9).double()[None]
    mine = rotate(x, rotary_tables(mean, 16, 1e5)) * rotary_damping(variance, 16, 1e5)
    torch.testing.assert_close(mine, gaussian_rope(x, mean, variance, base=1e5), atol=1e-6, rtol=0)


def test_it_offers_what_a_base_model_must(model):
    base: BaseModel = model
    assert (base.width, base.vocab_size, base.device) == (32, 600, torch.device("cpu"))
    cache = base.reserve(1, 3)
    assert cache.length == 0
    base(base.embed(drawn(3)), torch.arange(3)[None], ids=drawn(3), cache=cache)
    assert cache.length == 3
    with pytest.raises(ShapeError, match="3 entries in 1 rows, got 1 rows of 1 entries on top of 3"):
        base(base.embed(drawn(1)), torch.arange(1)[None], cache=cache)


def test_what_cannot_be_is_refused(model):
    with pytest.raises(ConfigError, match="a pyramid needs window >= 1"):
        PyramidConfig(window=0)
    with pytest.raises(ConfigError, match=r"edges need spans, .* got 0, 1 and spans \(\)"):
        PyramidConfig(spans=(), edges=1)
    with pytest.raises(
        ConfigError, match="rotary must be \"none\" and alibi false, got 'gaussian' and False"
    ):
        PyramidConfig(positions="log-distance")
    with pytest.raises(ConfigError, match="it reads 8"):
        PyramidGPT(model.gpt, GistNet(GistNetConfig(heads=2), width=32, block_size=K), NEAR)
    with pytest.raises(ConfigError, match="window_pattern must be L, got 'SL'"):
        PyramidGPT(GPT(model_config(window_pattern="SL")), model.summaries.gistnet, NEAR)
    x = torch.zeros(1, 5, 32)
    with pytest.raises(ShapeError, match="without padding"):
        model(x, torch.zeros(1, 5), padding=torch.zeros(1, 5, dtype=torch.bool))
    with pytest.raises(ShapeError, match=r"positions \(B, W\), got \(1, 5, 32\) and \(1, 4\)"):
        model(x, torch.zeros(1, 4))
    with pytest.raises(BackendUnavailableError, match="the backend 'flex'"):
        PyramidGPT(model.gpt, model.summaries.gistnet, PyramidConfig(window=12, block=4, backend="flex"))(
            x, torch.zeros(1, 5)
        )
    with pytest.raises(ShapeError, match="attention needs queries"):
        attend(x[..., None], x[..., None], x[..., None], NEAR.rule, 4, [], scale=1.0, backend="auto")
