"""A sampler that remembers what it cut, and the smallest schedules."""

import dataclasses

from toys import K, prose

from megacontext.tasks.babi import Babi
from megacontext.tasks.mixture import TaskShare
from megacontext.tasks.mqar import Mqar
from megacontext.tasks.variables import Variables
from megacontext.telemetry import NullTelemetry
from megacontext.train.address import AddressTrainConfig
from megacontext.train.base import BaseTrainConfig, Stage
from megacontext.train.contexts import ContextSampler, ContextSpec
from megacontext.train.lens import LensTrainConfig

MIXED = ContextSpec(min_blocks=2, max_blocks=24, max_raw=4, keys=5, questions=3, coarse=2)
RAW = dataclasses.replace(MIXED, max_raw=99, coarse=0)


class RecordingSampler(ContextSampler):
    """Remembers the history of every example, in order."""

    def __init__(self, *given):
        super().__init__(*given)
        self.drawn = []

    def asked(self, rng, num_tokens, task, before=0):
        drawn = super().asked(rng, num_tokens, task, before)
        self.drawn.append(drawn)
        return drawn


TASKS = (
    TaskShare(mqar=Mqar(pairs=5)),
    TaskShare(variables=Variables(hops=2, chains=2, every_link=True)),
    TaskShare(share=2, babi=Babi(kind=2, events=14, asks=2, people=3)),
)
TASKED = dataclasses.replace(MIXED, keys=0, tasks=TASKS)


def books(tokenizer):
    return [tokenizer.encode(prose(6000)), tokenizer.encode(prose(4000, start=20_000))]


def sampler_of(tokenizer, kind=ContextSampler, positions="context"):
    return kind(books(tokenizer), tokenizer, K, positions)


def base_config(steps=8, **changes):
    stages = (
        Stage(name="raw", steps=max(1, steps // 2), batch=4, contexts=RAW),
        Stage(name="mixed", steps=max(1, steps - steps // 2), batch=4, contexts=MIXED),
    )
    return BaseTrainConfig(**({"stages": stages} | changes))


def address_config(steps=6, **changes):
    return AddressTrainConfig(
        **({"steps": steps, "histories": 2, "blocks": 32, "keys": 6, "spans": 8} | changes)
    )


def lens_config(steps=6, **changes):
    shape = {
        "histories": 2, "min_tokens": 300, "max_tokens": 600, "keys": 4, "budget": 64, "rounds": 2,
        "steps": steps, "batch": 4,
    }  # fmt: skip
    return LensTrainConfig(**(shape | changes))


SILENT = NullTelemetry()
