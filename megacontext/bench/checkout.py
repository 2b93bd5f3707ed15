"""nanochat's own GPT out of a checkout that the user gave, to race against: this imports and runs that checkout's code.

Its versions differ in what they ask for; what is asked here is what all of them have: GPT and GPTConfig in
nanochat/gpt.py, and a cache in nanochat/engine.py. Weights reach it as a checkpoint of ours, read as nanochat reads it.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megacontext.attention.rotary import rotary_tables
from megacontext.errors import ConfigError
from megacontext.models.checkpoint import save_checkpoint
from megacontext.models.gpt import GPT


class Checkout:
    """The GPT of a checkout, with the weights of one of ours."""

    def __init__(self, folder: Path, ours: GPT):
        """Raises ConfigError where the checkout cannot be imported or does not take the weights."""
        with _imported(folder) as (gpt, engine, problem), tempfile.TemporaryDirectory() as place:
            self.lacks = problem
            """Why the cache could not be imported; empty where it could."""
            self._cache_class = None if engine is None else engine.KVCache
            weights = save_checkpoint(Path(place), 0, ours)
            shape = json.loads((Path(place) / "meta_000000.json").read_text())["model_config"]
            try:
                self.model = gpt.GPT(gpt.GPTConfig(**shape))
                self.model.init_weights()
                state = torch.load(weights, weights_only=True)
                self.model.load_state_dict(state, strict=True, assign=True)
            except Exception as problem:
                # Whatever a foreign constructor raises, it means that shape or names are not those of its generation.
                raise ConfigError(
                    f"the checkout must speak dialect {ours.dialect.name!r}, {folder} does not take its weights "
                    f"({_short(problem)}); give the --dialect of its day"
                ) from None
        self._shape, self._base = ours.config, ours.dialect.rope_base
        rounded = getattr(self.model, "cos", torch.empty(0)).dtype != torch.float32
        self.coarse = rounded and not self._take_exact_tables()
        """Whether its rotary tables are in bfloat16, so that logits can agree only roughly."""

    def _take_exact_tables(self) -> bool:
        """Early versions keep rotary tables in bfloat16. Give them exact ones; False where they insist on their own."""
        kept = self.model.cos, self.model.sin
        positions = torch.arange(self.model.cos.shape[1])[None]
        self.model.cos, self.model.sin = rotary_tables(positions, self._shape.head_dim, self._base)
        try:
            with torch.inference_mode():
                self.model(torch.zeros(1, 1, dtype=torch.long))
        except AssertionError:
            self.model.cos, self.model.sin = kept
            return False
        return True

    def loss(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats."""
        return self.model(ids, targets)

    def logits(self, ids: Tensor, cache: Any, past: int) -> Tensor:
        """float32 (B, T, V). Its cache knows by itself how many were read before."""
        return self.model(ids, kv_cache=cache)

    def reserve(self, batch: int, room: int) -> Any:
        """An empty cache of its own kind, with whatever of this its version asks for."""
        shape = self._shape
        known = {
            "batch_size": batch,
            "num_heads": shape.n_kv_head,
            "seq_len": room,
            "head_dim": shape.head_dim,
            "num_layers": shape.n_layer,
            "device": torch.device("cpu"),
            "dtype": torch.float32,
        }
        asked = inspect.signature(self._cache_class.__init__).parameters
        cache = self._cache_class(**{name: value for name, value in known.items() if name in asked})
        if hasattr(cache, "init_cache"):
            cache.init_cache(torch.float32, torch.device("cpu"))
        return cache


@contextlib.contextmanager
def _imported(folder: Path) -> Iterator[tuple[Any, Any, str]]:
    """nanochat.gpt, nanochat.engine (None where it cannot be imported, and why); what it prints goes to stderr."""
    _forget()
    sys.path.insert(0, str(folder))
    try:
        with contextlib.redirect_stdout(sys.stderr):
            try:
                gpt = importlib.import_module("nanochat.gpt")
            except (Exception, SystemExit) as problem:
                raise ConfigError(
                    f"--nanochat must be a checkout whose nanochat/gpt.py can be imported, {folder} is not "
                    f"({_short(problem)}); check the path, or install what it needs"
                ) from None
            if Path(folder).resolve() not in Path(gpt.__file__).resolve().parents:
                raise ConfigError(
                    f"--nanochat must hold nanochat/gpt.py, {folder} does not; the one imported was {gpt.__file__}"
                )
            engine, lacks = None, ""
            try:
                engine = importlib.import_module("nanochat.engine")
            except (Exception, SystemExit) as problem:
                lacks = _short(problem)
            yield gpt, engine, lacks
    finally:
        sys.path.remove(str(folder))
        _forget()


def _forget() -> None:
    """So that one checkout after another can be imported in a process."""
    for name in [name for name in sys.modules if name == "nanochat" or name.startswith("nanochat.")]:
        del sys.modules[name]


def _short(problem: BaseException) -> str:
    """An exception in one short line."""
    return " ".join(f"{type(problem).__name__}: {problem}".split())[:200]
