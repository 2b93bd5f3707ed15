"""Every member of the GistNet family begins as the mean, sees its whole block, and old bundles stay what they were."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import K, stir

from megacontext.config import data_root
from megacontext.errors import ConfigError, ShapeError
from megacontext.gistnet.gist import GistNet, GistNetConfig
from megacontext.runtime.bundle import Bundle

WIDTH = 32
POOLINGS, HEADS, SLOTS = ("mean", "query", "cls"), ("linear", "mlp"), (1, 2, 4, 8)

variants = st.builds(
    GistNetConfig,
    heads=st.just(2),
    layers=st.sampled_from((1, 2)),
    pooling=st.sampled_from(POOLINGS),
    head=st.sampled_from(HEADS),
    slots=st.sampled_from(SLOTS),
    correction=st.sampled_from(("transformer", "none")),
)


def net(stirred=True, **config):
    torch.manual_seed(0)
    made = GistNet(GistNetConfig(heads=2, **config), width=WIDTH, block_size=K)
    if stirred:
        stir(made, seed=0)
    return made


def children(slots, lod, count=3):
    shape = (count, K, WIDTH) if lod == 1 else (count, K, slots, WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


@given(variants, st.sampled_from((1, 2, 5)), st.sampled_from((0, 1, 3)))
def test_every_variant_begins_as_the_mean_of_each_share_exactly(config, lod, count):
    made = GistNet(config, width=WIDTH, block_size=K)
    rows = children(config.slots, lod, count)
    flat = rows if lod == 1 else rows.flatten(1, 2)
    wanted = flat.unflatten(1, (config.slots, -1)).mean(dim=2)
    assert torch.equal(made.gists(rows, lod), wanted)
    torch.testing.assert_close(wanted.mean(dim=1), flat.mean(dim=1))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("slots", (1, 2))
@pytest.mark.parametrize("lod", (1, 2))
def test_a_trained_correction_depends_on_every_child(pooling, head, slots, lod):
    """A CLS that saw only itself would add the same to every block."""
    trained, rows = net(pooling=pooling, head=head, slots=slots), children(slots, lod, 1)
    mean = net(correction="none", slots=slots)
    correction = trained.gists(rows, lod) - mean.gists(rows, lod)
    for child in range(K):
        changed = rows.clone()
        changed[:, child] *= -1
        moved = trained.gists(changed, lod) - mean.gists(changed, lod) - correction
        assert (moved.abs().amax(dim=-1) > 1e-4).all(), f"slot blind to child {child}"


@pytest.mark.parametrize("pooling", POOLINGS)
def test_slots_of_a_trained_gist_say_different_things(pooling):
    correction = net(pooling=pooling, slots=4).gists(children(4, 1), 1) - net(
        correction="none", slots=4
    ).gists(children(4, 1), 1)
    apart = torch.cdist(correction, correction)[0] + torch.eye(4)
    assert apart.min() > 1e-3


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("slots", (1, 4))
def test_every_parameter_has_a_gradient_once_the_head_has_moved(pooling, slots):
    trained = net(pooling=pooling, head="mlp", slots=slots)
    first, second = (trained.gists(children(slots, lod), lod).square().sum() for lod in (1, 2))
    (first + second).backward()
    still = [name for name, one in trained.named_parameters() if one.grad is None or not one.grad.any()]
    assert not still


def test_the_mean_alone_has_nothing_to_train_and_a_random_start_is_no_mean():
    assert not list(net(correction="none").parameters())
    rows = children(1, 1)
    started = net(stirred=False, mean_start=False)(rows, 1)
    assert not torch.allclose(started, rows.mean(dim=1), atol=0.1)


def test_a_gist_of_one_vector_is_asked_of_nets_of_one_slot_only():
    with pytest.raises(ShapeError, match=r"needs gistnet\.slots = 1, this net makes 2"):
        net(slots=2)(children(2, 1), 1)
    with pytest.raises(
        ShapeError, match=rf"children \(N, {K}, 2, {WIDTH}\), got \(3, {K}, {WIDTH}\) for lod 2"
    ):
        net(slots=2).gists(children(2, 1), 2)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"slots": 0}, "slots must be at least 1, got 0"),
        ({"correction": "none", "mean_start": False}, "mean_start must be true"),
    ],
)
def test_configurations_that_cannot_be_are_refused(config, sentence):
    with pytest.raises(ConfigError, match=sentence):
        GistNetConfig(**config)


def test_slots_that_do_not_divide_a_block_are_refused():
    with pytest.raises(ConfigError, match="must divide the block size, got 3 for blocks of 8"):
        net(slots=3)


def test_the_shipped_bundle_is_read_as_before_the_family_had_members():
    """Fingerprint as in its description, and every gist bit for bit by the formula of the one net there was."""
    folder = data_root() / "tiny"
    loaded = Bundle.load(folder)
    assert loaded.fingerprint() == json.loads((folder / "model.json").read_text())["fingerprint"]
    old = loaded.gistnet
    ids = torch.arange(64 * 32).view(64, 32) % loaded.config.model.vocab_size
    with torch.inference_mode():
        rows = loaded.base.embed(ids)
        for lod in (1, 2, 3):
            x = rows + old.place + old.level[min(lod, 2) - 1]
            for layer in old.layers:
                x = layer(x)
            wanted = rows.mean(dim=1) + old.head(old.norm(x.mean(dim=1)))
            made = old(rows, lod)
            assert torch.equal(made, wanted)
            rows = made.repeat(32, 1).view(-1, 32, rows.shape[-1])
