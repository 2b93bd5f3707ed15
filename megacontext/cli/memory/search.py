"""`megacontext memory search`: where in a memory something stands, by words, meaning or exact text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import tyro

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath, load_encoder
from megacontext.errors import ConfigError
from megacontext.progress import Progress
from megacontext.scoring.search import search_meaning, search_text, search_words
from megacontext.tree import Memory


@dataclass(frozen=True)
class Search:
    """Find places in a memory by words, by meaning, or by exact text, with the document that each comes from."""

    memory: MemoryPath
    """Folder of a memory."""
    query: Annotated[str, tyro.conf.Positional]
    """What to look for."""
    by: Literal["words", "meaning", "text"] = "words"
    """words: BM25; meaning: the addresses that the model gives query and blocks; text: exactly these signs."""
    most: int = 5
    """How many places to show."""
    model: str = "tiny"
    """The model that the memory was made with."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if self.most < 1:
            raise ConfigError(f"--most must be at least 1, got {self.most}; raise it")
        encoder = load_encoder(self.model)
        tokenizer = encoder.tokenizer
        with Memory.open(self.memory, encoder.identity(), encoder) as memory:
            with Progress("tokens read", memory.num_tokens) as progress:
                if self.by == "words":
                    hits = search_words(memory, tokenizer, self.query, self.most, progress.set)
                elif self.by == "text":
                    hits = search_text(memory, tokenizer, self.query, self.most, progress.set)
                else:
                    question = encoder.encode_question(tokenizer.encode(self.query))
                    hits = search_meaning(memory, question, self.most, progress.set)
            rows = [
                {
                    **asdict(hit),
                    "cited": [str(citation) for citation in memory.cite(hit.start, hit.stop)],
                    "text": tokenizer.decode(memory.tokens(hit.start, hit.stop)),
                }
                for hit in hits
            ]

        def say() -> None:
            for row in rows:
                cited = "; ".join(row["cited"]) or f"tokens {row['start']:,}-{row['stop']:,}"
                print(f"{row['score']:.3f}  {cited}\n       {' '.join(row['text'].split())}")
            if not rows:
                print("nothing found")

        answer({"hits": rows}, self.json, say)
        return 0
