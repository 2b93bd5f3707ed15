"""A mean gist is as loud as a token, at every level, and nothing of it is lost on the way to its gradient."""

import pytest
import torch
from hf_toys import VOCABULARY

from megacontext.errors import ShapeError
from megacontext.models.huggingface import MeanGist


def loudness(vectors):
    return vectors.square().mean(dim=-1).sqrt()


@pytest.mark.parametrize("block", [1, 2, 7, 8, 32])
def test_an_untrained_gist_is_as_loud_as_the_embedding_table(base, block):
    table = base.embed(torch.arange(base.vocab_size))
    gist = MeanGist(table)
    ids = torch.randint(VOCABULARY, (5, block), generator=torch.Generator().manual_seed(block))
    first = gist(base.embed(ids))
    assert first.shape == (5, base.width)
    wanted = table.square().mean().sqrt()
    torch.testing.assert_close(loudness(first), wanted.expand(5))
    # The table's mean is near zero, so that its loudness is its standard deviation.
    torch.testing.assert_close(wanted, table.std(), rtol=0.02, atol=0)
    # Gists of gists, too: a plain mean would be sqrt(block) times quieter at each level.
    torch.testing.assert_close(loudness(gist(first[None])), wanted.expand(1))


def test_a_gist_points_where_the_mean_points():
    embeddings = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    found = MeanGist(embeddings[0])(embeddings)
    torch.testing.assert_close(
        torch.cosine_similarity(found, embeddings.mean(dim=1)), torch.ones(3), atol=1e-6, rtol=0
    )


def test_the_scale_is_learnt():
    embeddings = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    gist = MeanGist(embeddings[0])
    gist(embeddings).square().sum().backward()
    assert [name for name, _ in gist.named_parameters()] == ["scale"] and gist.scale.grad > 0


def test_the_mean_of_opposite_vectors_is_finite_and_so_is_its_gradient():
    one = torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(0))
    embeddings = torch.cat((one, -one), dim=1).requires_grad_()
    found = MeanGist(one[0])(embeddings)
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize("shape", [(8, 16), (2, 0, 16), (1, 2, 8, 16)])
def test_what_is_no_row_of_blocks_is_refused(shape):
    with pytest.raises(ShapeError, match=r"blocks \(N, K, E\) with K at least 1, got"):
        MeanGist(torch.ones(2, 16))(torch.zeros(shape))
