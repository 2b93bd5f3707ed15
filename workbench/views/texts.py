"""The text behind a selected step: the memory of its history and the vocabulary to read it with, or why there is none.

Looked for anew each time it is wanted, since a memory may be closed and opened again between two looks.
"""

from __future__ import annotations

from dataclasses import dataclass

from megacontext.errors import MegaContextError
from megacontext.tree import Memory
from workbench.desk import Desk
from workbench.stores.vocabulary import Vocabulary, vocabulary_of


@dataclass(frozen=True)
class Texts:
    """Where words come from."""

    memory: Memory
    vocabulary: Vocabulary


def texts_of(desk: Desk) -> Texts | str:
    """The texts of the selected history, or a sentence that says why there are none and what to do."""
    history, name = desk.selection.history, desk.memory_name
    if name.rpartition("/")[2] != history:
        return (
            f"The memory of {history} is not on this disk, so its text cannot be shown; a run keeps it under "
            "memory/, beside its telemetry."
        )
    try:
        store = desk.memory()
        assert store is not None, "a memory that has a name is there"
        model = desk.run.recipe.get("model") if desk.run is not None else None
        tokenizer = store.memory.catalogue.tokenizer
        return Texts(store.memory, vocabulary_of(tokenizer, model if isinstance(model, str) else ""))
    except MegaContextError as problem:
        return str(problem)
