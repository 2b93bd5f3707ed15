"""Small models of every dialect in which every parameter matters, and their files written by hand, as nanochat does."""

import json

import torch
from toys import stir

from megacontext.models.dialect import DIALECTS
from megacontext.models.gpt import GPT, GPTConfig

SHAPE = {"sequence_len": 256, "vocab_size": 77, "n_layer": 3, "n_head": 2, "n_kv_head": 1, "n_embd": 32}


def toy(dialect, **changes):
    windows = {} if DIALECTS.get(dialect).short_window is None else {"window_pattern": "SSSL"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT(GPTConfig(dialect=dialect, **(SHAPE | windows | changes)))
    stir(model, seed=1)
    return model.eval()


def write(folder, model, *, step=7, state=None, config=None):
    """model_*.pt and meta_*.json of `model`; `config` changes its model_config, None takes a field out."""
    shape = {name: getattr(model.config, name) for name in SHAPE}
    if DIALECTS.get(model.config.dialect).short_window is not None:
        shape["window_pattern"] = model.config.window_pattern
    shape = {name: value for name, value in (shape | (config or {})).items() if value is not None}
    torch.save(model.state_dict() if state is None else state, folder / f"model_{step:06d}.pt")
    meta = {"step": step, "val_bpb": 1.25, "model_config": shape, "user_config": {"run": "dummy"}}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta, indent=2))
