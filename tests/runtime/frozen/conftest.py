"""A tiny random Llama in a folder, pooled gists with random weights, and a reader of both."""

import pytest
import torch
from models.huggingface.hf_toys import save_model
from toys import stir

from megacontext.gistnet.address import AddressNetConfig
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.lensnet.lens import LensNetConfig
from megacontext.runtime.frozen.reader import FrozenReaderConfig, new_reader
from megacontext.runtime.pooled_gists import open_decoder, save_pooled

K = 8
SINK = "<|im_start|>"


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The decoder in `model`, its gists of two levels in `gists`."""
    folder = tmp_path_factory.mktemp("frozen")
    save_model(folder / "model", initializer_range=0.3)
    decoder = open_decoder(str(folder / "model"), "cpu", "float32", SINK)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PooledCache(
            PooledCacheConfig(hidden=4, levels=2), entry_shape=decoder.base.entry_shape, block_size=K
        )
    stir(net, 0)
    save_pooled(folder / "gists", net, decoder)
    return folder


@pytest.fixture(scope="session")
def config(folders):
    return FrozenReaderConfig(
        decoder=str(folders / "model"),
        sink=SINK,
        block_size=K,
        segment_blocks=4,
        gists=str(folders / "gists"),
        address=AddressNetConfig(address_width=16, width=32, heads=2, left_tokens=4),
        lens=LensNetConfig(width=16, heads=2),
    )


@pytest.fixture(scope="session")
def reader(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_reader(config, "cpu", "float32")
    for _, part in made.parts():
        stir(part, 0)
    made.round_to_half()
    return made
