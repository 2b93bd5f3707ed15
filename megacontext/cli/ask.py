"""`megacontext ask MEMORY QUESTION`: one answer from a memory on disk, with what the model read to give it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from megacontext.cli.answers import answer
from megacontext.errors import ConfigError
from megacontext.runtime.citing import tell, tell_steps
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.frozen.encoding import open_memory
from megacontext.runtime.frozen.reader import FrozenReader, open_parts
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class Ask:
    """Answer one question from a memory on disk, and cite what was read word for word. The memory is not changed."""

    memory: Annotated[Path, tyro.conf.Positional]
    """Folder of a memory, e.g. runs/demo/memory/book-0"""
    question: Annotated[str, tyro.conf.Positional]
    """The question, e.g. "What is Lady Fieldack's crest?" """
    budget: int | None = None
    """Key/value positions that the model may attend to, question included; default: 256, a frozen decoder's 640."""
    scorer: str = "lensnet"
    """Who says where detail is needed."""
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with the trained parts that the memory was made with."""
    levels: int | None = None
    """Highest level of gists that a frozen decoder reads; default: as its reader says."""
    keep: bool = False
    """Keep the gists that a frozen decoder makes for the answer in the memory, so that the next one finds them."""
    aloud: bool = False
    """With a model that says the steps to an answer (tiny-aloud): look again after each."""
    json: bool = False
    """Print answer and passages as JSON."""

    def run(self) -> int:
        parts = open_parts(self.model, self.levels)
        if isinstance(parts, FrozenReader):
            if self.aloud:
                raise ConfigError(
                    f"steps are said by a model that was trained to say them, {self.model} is a frozen decoder; leave "
                    "--aloud out"
                )
            memory, usual = open_memory(parts, self.memory, writable=self.keep), 640
        else:
            encoder = BundleEncoder(parts)
            memory, usual = Memory.open(self.memory, encoder.identity(), encoder, self.keep), 256
        with memory:
            budget = usual if self.budget is None else self.budget
            session = Session(parts, memory, FocusConfig(budget=budget), scorer=self.scorer)
            told = (tell_steps if self.aloud else tell)(session, self.question)
        answer(told, self.json, lambda: print_told(told))
        return 0


def print_told(told: dict[str, Any]) -> None:
    """An answer for people, with its passages, behind the steps that were said."""
    for step in told.get("steps", ()):
        print(f"{step['said']}   ({', '.join(map(_place, step['passages']))})")
    print(told["answer"])
    print(
        f"\n{told['positions']} positions stood for {told['tokens']:,} tokens ({told['seconds']:.1f} s); "
        "read word for word:"
    )
    for passage in told["passages"]:
        print(f"  {_place(passage)}: {' '.join(passage['text'].split())}")


def _place(passage: dict[str, Any]) -> str:
    return passage["source"] or f"tokens {passage['start']:,}-{passage['stop']:,}"
