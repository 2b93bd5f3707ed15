"""Several tasks in fixed shares, of which each training history gets one.

A recipe names a task by its own key, with that task's sizes below it:
`{ share = 2, variables = { hops = 2, chains = 3 } }`. With `aloud` its questions are answered step by step
(`tasks.aloud`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np

from megacontext.errors import ConfigError
from megacontext.tasks.aloud import Aloud
from megacontext.tasks.asked import Task
from megacontext.tasks.asked_facts import Facts
from megacontext.tasks.babi import Babi
from megacontext.tasks.counting import Counting
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.needles import Needles
from megacontext.tasks.variables import Variables


@dataclass(frozen=True, kw_only=True)
class TaskShare:
    """One task, and how many of the histories it gets beside the others."""

    share: float = 1.0
    facts: Facts | None = None
    needles: Needles | None = None
    mqar: Mqar | None = None
    variables: Variables | None = None
    babi: Babi | None = None
    counting: Counting | None = None
    aloud: Literal["", "answers", "turns"] = ""
    """Whether the steps to an answer are said: `answers` has all of them in the answer, as a model learns to speak;
    `turns` makes each step a question of its own, as addresses and LensNet meet it."""

    def __post_init__(self) -> None:
        named = [name for name in _TASKS if getattr(self, name) is not None]
        if len(named) != 1 or self.share <= 0:
            raise ConfigError(
                f"a share of a mixture names one task and is positive, got {named or 'none'} and {self.share}; "
                f"name one of {', '.join(_TASKS)}"
            )

    @property
    def task(self) -> Task:
        """The task that is named."""
        task = next(task for name in _TASKS if (task := getattr(self, name)) is not None)
        return Aloud(task=task, turns=self.aloud == "turns") if self.aloud else task


_TASKS = tuple(field.name for field in fields(TaskShare) if field.name not in ("share", "aloud"))


def draw_task(shares: Sequence[TaskShare], rng: np.random.Generator) -> Task:
    """One task, by the shares."""
    weights = np.array([one.share for one in shares])
    return shares[int(rng.choice(len(shares), p=weights / weights.sum()))].task
