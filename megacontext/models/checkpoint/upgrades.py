"""Old names in a state dict become today's, one named step each, in a fixed order.

A step renames and does nothing else: no tensor is made up, cut or changed. What no step knows stays as it is and is
refused later, where names are held against the dialect.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from megacontext.errors import CheckpointError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Upgrade:
    """One step."""

    name: str
    rename: Callable[[str], str]


def _without_compile_prefix(key: str) -> str:
    return key.removeprefix("_orig_mod.")


def _value_embeddings_at_the_top(key: str) -> str:
    return re.sub(r"^transformer\.(value_embeds\.\d+\.weight)$", r"\1", key)


UPGRADES: tuple[Upgrade, ...] = (
    # torch.compile wraps the model, and puts this in front of every name.
    Upgrade(name="strip the prefix of torch.compile", rename=_without_compile_prefix),
    # Public converters of nanochat's checkpoints know the tables inside `transformer` as well.
    Upgrade(name="lift value embeddings out of transformer", rename=_value_embeddings_at_the_top),
)


def upgrade(state: Mapping[str, T]) -> tuple[dict[str, T], list[str]]:
    """`state` with today's names, and the names of the steps that changed something.

    Raises CheckpointError when two names become one.
    """
    taken = []
    for step in UPGRADES:
        renamed: dict[str, T] = {}
        for key, value in state.items():
            new = step.rename(key)
            if new in renamed:
                raise CheckpointError(
                    f"a checkpoint must name each tensor once, {new!r} comes twice after the step to {step.name}; "
                    "it was put together from two"
                )
            renamed[new] = value
        if renamed.keys() != state.keys():
            taken.append(step.name)
        state = renamed
    return dict(state), taken
