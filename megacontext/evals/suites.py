"""The suites of `megacontext eval`: which task, at which sizes, and what one cell of its tables is.

A cell is a task at one size and one length of history; all its questions are pooled. Cells of one family differ in a
single size, so that retention along it (the score there over the score at the first) means something. Deliberately
ignorant of arms and models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from megacontext.errors import ConfigError
from megacontext.registry import Registry
from megacontext.tasks.asked import Task
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.babi import Babi
from megacontext.tasks.counting import Counting
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.needles import Needles
from megacontext.tasks.variables import Variables

AUDIT = "focus-audit"
ARMS = (
    "none",
    "gist-only",
    "recency",
    "sinks+recency",
    "random",
    "bm25",
    "dense",
    "dense+bm25",
    "infllm-style",
    "lensnet",
    "lensnet+bm25",
    "oracle",
)
AUDITED_ARMS = ("random", "bm25", "dense", "lensnet", "oracle")


@dataclass(frozen=True)
class Cell:
    """One task at one size, planted into so many tokens of text."""

    name: str
    family: str
    tokens: int
    task: Task


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A task with the sizes that it is asked at unless others are named."""

    about: str
    task: Callable[[int], Task]
    """The task of a variant; a suite without variants is given 0."""
    lengths: tuple[int, ...] = (4096, 16_384)
    """Tokens of text; empty for a task that has no text around it."""
    variants: tuple[int, ...] = ()
    called: str = "{}"
    """A variant as it stands in the names of cells."""
    arms: tuple[str, ...] = field(default=ARMS)

    def cells(self, lengths: tuple[int, ...], variants: tuple[int, ...]) -> list[Cell]:
        """One cell a variant and length. Raises ConfigError for sizes that the suite does not have."""
        for what, given, has in (
            ("lengths", lengths, self.lengths),
            ("variants", variants, self.variants),
        ):
            if bool(given) != bool(has):
                way_out = "name at least one" if has else "leave the option out"
                raise ConfigError(
                    f"this suite {'needs' if has else 'has no'} {what}, got {list(given)}; {way_out}"
                )
        if any(tokens < 1 for tokens in lengths):
            raise ConfigError(
                f"a history has at least 1 token of text, got lengths {list(lengths)}; raise them"
            )
        made = []
        for variant in variants or (0,):
            called = self.called.format(variant) if variants else ""
            task = self.task(variant)
            if not lengths:
                made.append(Cell(called, "size", 0, task))
            for tokens in lengths:
                name = f"{called}-{length_name(tokens)}" if called else length_name(tokens)
                made.append(Cell(name, called or "length", tokens, task))
        return made


SUITES: Registry[Suite] = Registry("suite")
SUITES.register("needles")(
    Suite(
        about="facts at even depths, of histories that grow",
        task=lambda _: Needles(),
        lengths=(4096, 16_384, 65_536),
    )
)
SUITES.register("dense-needles")(
    Suite(
        about="as many needles in 1,000 tokens, however long the history",
        task=lambda _: Needles(per_thousand=6.0),
        lengths=(4096, 16_384, 65_536),
    )
)
SUITES.register("passkey")(
    Suite(
        about="one value, at any depth, in a text that holds no other",
        task=lambda _: Needles(depths=1, each=1),
        lengths=(4096, 16_384, 65_536),
    )
)
SUITES.register("facts")(
    Suite(about="planted facts, half of them superseded", task=lambda _: Facts(), lengths=(4096, 16_384))
)
SUITES.register("mqar")(
    Suite(
        about="associative recall: pairs of key and value, nothing between them",
        task=lambda pairs: Mqar(pairs=pairs),
        lengths=(),
        variants=(4, 16, 64, 256, 1024),
        called="{}pairs",
    )
)
SUITES.register("variables")(
    Suite(
        about="a value handed on from person to person, among decoys",
        task=lambda hops: Variables(hops=hops),
        lengths=(4096,),
        variants=(2, 3, 4, 5, 6),
        called="{}hops",
    )
)
SUITES.register("babi")(
    Suite(
        about="who and what is where, told between the sentences of a book",
        task=lambda kind: Babi(kind=kind),
        variants=(1, 2, 3),
        called="kind{}",
    )
)
SUITES.register("counting")(
    Suite(
        about="how often something was said of a person",
        task=lambda most: Counting(most=most),
        variants=(5,),
        called="upto{}",
    )
)
SUITES.register(AUDIT)(
    Suite(
        about="predicted scores against measured utilities of single expansions",
        task=lambda _: Facts(),
        lengths=(4096,),
        arms=AUDITED_ARMS,
    )
)


def length_name(tokens: int) -> str:
    """4096 as `4k`, 1048576 as `1M`, anything between as it is."""
    for size, unit in ((1 << 20, "M"), (1 << 10, "k")):
        if tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)
