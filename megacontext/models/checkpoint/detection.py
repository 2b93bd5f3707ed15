"""Which dialect a checkpoint speaks: told by its keys, because nanochat writes no version.

Every extra of a dialect leaves keys behind, so a set of extras names the dialects that can have written it. Where two
remain, the rows of the embedding or, in the end, the caller must decide: a softcap leaves no trace in a file.
"""

from __future__ import annotations

from collections.abc import Mapping

from megacontext.errors import CheckpointError
from megacontext.models.dialect import DIALECTS, Dialect

Shapes = Mapping[str, tuple[int, ...]]
_WTE = "transformer.wte.weight"


def detect_dialect(shapes: Shapes, vocab_size: int, override: str | None = None) -> Dialect:
    """The dialect of a state dict with tensors of those shapes, by name.

    `override` decides between dialects that the keys cannot tell apart, and must be one of them. Raises
    CheckpointError when keys of several dialects are mixed, when an override contradicts the keys, or when one is
    needed; UnknownVariantError for an override that is no dialect.
    """
    asked = None if override is None else DIALECTS.get(override)
    found = _extras_in(shapes)
    fitting = [dialect for dialect in map(DIALECTS.get, DIALECTS.names()) if _extras_of(dialect) == found]
    if not fitting:
        raise CheckpointError(
            f"a checkpoint must have the keys of one dialect, this one has {', '.join(sorted(found))}, which no "
            f"dialect has together (known are {', '.join(DIALECTS.names())}); it is foreign or was put together"
        )
    if asked is not None:
        if asked not in fitting:
            raise CheckpointError(
                f"the dialect must fit the keys, which are those of {_names(fitting)}, got {asked.name!r}; leave it out"
            )
        return asked
    if len(fitting) > 1:
        fitting = [dialect for dialect in fitting if _rows_fit(dialect, shapes, vocab_size)] or fitting[:1]
    if len({dialect.softcap for dialect in fitting}) > 1:
        caps = " and ".join(f"{dialect.softcap:g} in {dialect.name!r}" for dialect in fitting)
        raise CheckpointError(
            f"the keys cannot tell {_names(fitting)} apart, whose softcap differs ({caps}); "
            "give the dialect of the code that wrote the checkpoint"
        )
    # Those that are left compute the same: padding adds no row to a vocabulary that needs none.
    return fitting[0]


def _extras_of(dialect: Dialect) -> frozenset[str]:
    """The extras of a dialect, in the words of `_extras_in`."""
    extras = {
        "residual scalars": dialect.residual_scalars,
        f"value gates of {dialect.value_gate_channels} channels": dialect.value_gate_channels > 0,
        "value embeddings": dialect.value_gate_channels > 0,
        "smear": dialect.smear,
        "backout": dialect.backout,
    }
    return frozenset(name for name, present in extras.items() if present)


def _extras_in(shapes: Shapes) -> frozenset[str]:
    """The extras that keys and shapes tell of; one key of an extra is enough, what it lacks is found missing later."""
    extras = set()
    for key, shape in shapes.items():
        if key in ("resid_lambdas", "x0_lambdas"):
            extras.add("residual scalars")
        elif key.endswith(".attn.ve_gate.weight"):
            extras.add(f"value gates of {shape[-1] if shape else 0} channels")
        elif key.startswith("value_embeds."):
            extras.add("value embeddings")
        elif key.startswith("smear_"):
            extras.add("smear")
        elif key.startswith("backout_"):
            extras.add("backout")
    return frozenset(extras)


def _rows_fit(dialect: Dialect, shapes: Shapes, vocab_size: int) -> bool:
    rows = -(-vocab_size // dialect.vocab_multiple) * dialect.vocab_multiple
    return shapes.get(_WTE, ())[:1] == (rows,)


def _names(dialects: list[Dialect]) -> str:
    return " and ".join(repr(dialect.name) for dialect in dialects)
