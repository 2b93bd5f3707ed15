"""`megacontext ask MEMORY QUESTION`: one answer from a memory on disk, with what the model read to give it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from megacontext.focus.context import WorkingContext
from megacontext.runtime.bundle import Bundle, model_folder
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.session import FocusConfig, Session
from megacontext.tasks.facts import as_prompt
from megacontext.tree.memory import Memory


@dataclass(frozen=True)
class Passage:
    """A stretch of the history that the model read word for word."""

    start: int
    """First token."""
    stop: int
    """One past the last."""
    text: str


@dataclass(frozen=True)
class Ask:
    """Answer one question from a memory on disk, and cite what was read word for word. The memory is not changed."""

    memory: Annotated[Path, tyro.conf.Positional]
    """Folder of a memory, e.g. runs/demo/memory/book-0"""
    question: Annotated[str, tyro.conf.Positional]
    """The question, e.g. "What is Lady Fieldack's crest?" """
    budget: int = 256
    """Key/value positions that the model may attend to, question included."""
    scorer: str = "lensnet"
    """Who says where detail is needed."""
    model: str = "tiny"
    """A folder in data/, or the path of a folder, with the trained parts that the memory was made with."""
    json: bool = False
    """Print answer and passages as JSON."""

    def run(self) -> int:
        bundle = Bundle.load(model_folder(self.model))
        encoder = BundleEncoder(bundle)
        with Memory.open(self.memory, encoder.identity(), encoder) as memory:
            session = Session(bundle, memory, FocusConfig(budget=self.budget), scorer=self.scorer)
            prompt = bundle.tokenizer.encode(as_prompt(self.question))
            focus = session.focus(prompt)
            reading = session.read(focus.context, prompt)
            answer = session.decode([reading])[0]
            passages = read_passages(focus.context, memory, session)
            history = memory.num_tokens
        if self.json:
            cited = [asdict(passage) for passage in passages]
            print(
                json.dumps(
                    {"answer": answer, "positions": reading.cost, "tokens": history, "passages": cited},
                    indent=2,
                )
            )
        else:
            print(answer)
            print(f"\n{reading.cost} positions stood for {history:,} tokens; read word for word:")
            for passage in passages:
                print(f"  tokens {passage.start:,}-{passage.stop:,}: {' '.join(passage.text.split())}")
        return 0


def read_passages(context: WorkingContext, memory: Memory, session: Session) -> list[Passage]:
    """The raw entries of a context, neighbours joined, in time order."""
    raw = context.lod == 0
    starts = np.flatnonzero(raw & ~np.r_[False, raw[:-1]])
    stops = np.flatnonzero(raw & ~np.r_[raw[1:], False])
    spans = zip(context.start[starts].tolist(), context.stop[stops].tolist(), strict=True)
    return [Passage(a, b, session.bundle.tokenizer.decode(memory.tokens(a, b))) for a, b in spans]
