"""A tiny random Llama in a folder, pooled gists with random weights, and a reader of both."""

from pathlib import Path

import torch
from models.huggingface.hf_toys import save_model
from toys import K, stir

from megacontext.gistnet.address import AddressNetConfig
from megacontext.gistnet.pooled import PooledCache, PooledCacheConfig
from megacontext.lensnet.lens import LensNetConfig
from megacontext.runtime.frozen.reader import FrozenReader, FrozenReaderConfig, new_reader
from megacontext.runtime.pooled_gists import open_decoder, save_pooled

SINK = "<|im_start|>"


def save_parts(folder: Path) -> FrozenReaderConfig:
    """Write the decoder and its gists of two levels; returns what a reader of them is made by."""
    save_model(folder / "model", initializer_range=0.3)
    decoder = open_decoder(str(folder / "model"), "cpu", "float32", SINK)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PooledCache(
            PooledCacheConfig(hidden=4, levels=2), entry_shape=decoder.base.entry_shape, block_size=K
        )
    stir(net, 0)
    save_pooled(folder / "gists", net, decoder)
    return FrozenReaderConfig(
        decoder=str(folder / "model"),
        sink=SINK,
        block_size=K,
        segment_blocks=4,
        levels=2,
        gists=str(folder / "gists"),
        address=AddressNetConfig(address_width=16, width=32, heads=2, left_tokens=4),
        lens=LensNetConfig(width=16, heads=2),
    )


def random_reader(config: FrozenReaderConfig) -> FrozenReader:
    """Nets in which every parameter matters, as float16 stores them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = new_reader(config, "cpu", "float32")
    for _, part in made.parts():
        stir(part, 0)
    made.round_to_half()
    return made
