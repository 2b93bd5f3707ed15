"""The focus audit: is what a scorer wants opened what helps the model to answer?

The utility of opening one block is the negative log-likelihood of the true answer, given a context that shows the
block as a gist, minus the same with that block as tokens and nothing else changed. It is measured for every finished
block of a history, each in the context that a refocus would come through: the coarsest cover with the way down to the
block's siblings unfolded. Beside it stands the score that an arm gives the block's entry in that very context.

Three kinds of figures an arm, over questions:

- **rank correlation** (Spearman) of score and utility over all blocks, and how often the block of highest utility has
  the highest score. The correlation is over all blocks, most of which help with nothing: what harms most, while the
  evidence stays folded, is what resembles it. So beside it stands what opening the evidence saves, and what opening the
  block saves that resembles it most to the arm.
- **regret**: utilities taken as additive, how much worth the context that the arm's refocus ends with misses against
  the best one under the same budget (`focus.exact`).
- **what it comes to**: the answer's negative log-likelihood under that context, under the best context, and under the
  cover. This is measured and assumes nothing.

Intervals of means are bootstrapped over questions; those of one history share its text, which the intervals ignore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch

from megacontext.errors import ConfigError
from megacontext.evals.arms import GIST_ONLY, HEADS, NO_CONTEXT
from megacontext.evals.evaluation import EvalConfig, Prepared, note, opened, write_frame
from megacontext.evals.grids import CLAIM, share
from megacontext.evals.histories import Case
from megacontext.evals.statistics import bootstrap_mean, spearman, wilson
from megacontext.focus.context import WorkingContext
from megacontext.focus.exact import NodeUtilities, best_context, value_of
from megacontext.progress import Progress
from megacontext.runtime.layout import context_room
from megacontext.runtime.reading import stack
from megacontext.runtime.run import RunFolder
from megacontext.runtime.session import Session, starting_context
from megacontext.scoring import Question
from megacontext.tasks.asked import Asked

_BATCH = 33
"""Contexts read together: one with all siblings folded, and one for each of 32 opened."""
MEANS = (
    "needed_nats",
    "other_nats",
    "wanted_other_nats",
    "spearman",
    "regret_nats",
    "nll_nats",
    "nll_best_nats",
    "nll_cover_nats",
)


@dataclass(frozen=True)
class Expansions:
    """Single expansions of one question: from which context each block was opened, and what that was worth."""

    contexts: list[WorkingContext]
    """The contexts that show the blocks as gists."""
    context_of: np.ndarray
    """int64 (num_blocks,): which of them shows each block."""
    utility: np.ndarray
    """float64 (num_blocks,): nats of the answer that opening the block saves."""


def check_audit(prepared: Prepared) -> None:
    """Raises ConfigError for what cannot be audited: arms without scores, histories that the budget holds as tokens."""
    config = prepared.config
    for arm in config.arms:
        if arm in (NO_CONTEXT, GIST_ONLY) or HEADS in arm:
            raise ConfigError(
                f"an audit is of scorers, {arm!r} gives no entry a score; name others with --arms"
            )
    for histories in prepared.histories.values():
        for history in histories:
            if len(history.asked.ids) <= config.focus.budget:
                raise ConfigError(
                    f"an audited history must be longer than the budget of {config.focus.budget} positions, "
                    f"{history.name} has {len(history.asked.ids)} tokens and is read whole; raise --lengths"
                )


def run_audit(prepared: Prepared, run: RunFolder) -> dict[str, Any]:
    """Audit every arm into `run` and return what results.json says."""
    config = prepared.config
    note(prepared, run)
    rows: list[dict[str, Any]] = []
    ingest: list[dict[str, Any]] = []
    blocks: list[pl.DataFrame] = []
    for cell in config.cells():
        histories = prepared.histories[cell.name]
        with Progress(
            f"audit {cell.name}", sum(len(history.asked.questions) for history in histories)
        ) as progress:
            for history in histories:
                with opened(prepared, history, run, ingest) as case:
                    for number, question in enumerate(case.asked.questions):
                        about = {
                            "cell": cell.name,
                            "seed": history.seed,
                            "history": history.name,
                            "question": number,
                            "kind": question.kind,
                        }
                        for row, frame in audited(case, question, number, config):
                            rows.append(about | row)
                            run.answer(about | row | {"prompt": question.prompt})
                            blocks.append(frame.with_columns(pl.lit(history.name).alias("history")))
                        progress.advance()
                run.flush()
    write_frame(run, "samples", pl.DataFrame(rows, infer_schema_length=None))
    write_frame(run, "expansions", pl.concat(blocks))
    results = audit_tables(config, rows) | {"ingest": ingest}
    run.results(results)
    return results


def audited(
    case: Case, question: Asked, number: int, config: EvalConfig
) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """For each arm its figures for one question, and a row for each block."""
    session, memory = case.session, case.session.memory
    tokenizer = session.bundle.tokenizer
    prompt, answer = tokenizer.encode(question.prompt), tokenizer.encode(question.answer)
    needed = case.blocks_of(question.needed)
    expansions = measured(session, prompt, answer)
    is_needed = np.isin(np.arange(memory.num_blocks), needed)
    worth = NodeUtilities(num_tokens=memory.num_tokens, block_size=memory.block_size, raw=expansions.utility)
    cover = starting_context(memory.num_tokens, memory.block_size, session.config.budget, len(prompt))
    room = context_room(session.config.budget - len(prompt), cover, session.config.layout)
    best = best_context(worth, room)
    chosen = [
        session.focus(prompt, scorer=arm, number=number, needed_blocks=needed).context for arm in config.arms
    ]
    nll_cover, nll_best, *nll = answer_nll(session, [cover, best, *chosen], prompt, answer).tolist()
    asked = Question(number=number, ids=prompt, needed_blocks=needed)
    for arm, context, own_nll in zip(config.arms, chosen, nll, strict=True):
        scores = block_scores(session, arm, asked, expansions)
        yield (
            {
                "arm": arm,
                "spearman": spearman(scores, expansions.utility),
                "first": first_place(scores, expansions.utility),
                "needed_nats": float(expansions.utility[is_needed].mean()) if needed else None,
                "other_nats": float(expansions.utility[~is_needed].mean()),
                "wanted_other_nats": wanted_other(scores, expansions.utility, is_needed),
                "regret_nats": value_of(best, worth) - value_of(context, worth),
                "best_value_nats": value_of(best, worth),
                "nll_nats": own_nll,
                "nll_best_nats": nll_best,
                "nll_cover_nats": nll_cover,
            },
            pl.DataFrame(
                {
                    "question": np.full(len(scores), number),
                    "arm": [arm] * len(scores),
                    "block": np.arange(len(scores)),
                    "needed": is_needed,
                    "score": scores,
                    "utility_nats": expansions.utility,
                }
            ),
        )


def measured(session: Session, prompt: np.ndarray, answer: np.ndarray) -> Expansions:
    """The utility of opening each finished block of the session's memory, for one question with its true answer."""
    memory = session.memory
    cover = starting_context(memory.num_tokens, memory.block_size, session.config.budget, len(prompt))
    utility = np.full(memory.num_blocks, np.nan)
    context_of = np.full(memory.num_blocks, -1)
    contexts: list[WorkingContext] = []
    while len(missing := np.flatnonzero(context_of < 0)):
        context = unfolded(cover, int(missing[0]))
        slots = np.flatnonzero(context.lod == 1)
        slots = slots[context_of[context.index[slots]] < 0]
        opened_ones = [context.edited_at(expand=[slot]) for slot in slots.tolist()]
        nll = answer_nll(session, [context, *opened_ones], prompt, answer)
        context_of[context.index[slots]] = len(contexts)
        utility[context.index[slots]] = nll[0] - nll[1:]
        contexts.append(context)
    return Expansions(contexts, context_of, utility)


def unfolded(cover: WorkingContext, block: int) -> WorkingContext:
    """`cover` with the way down to a finished block opened, as far as the block is a gist of LOD 1."""
    context = cover
    while True:
        slot = int(context.slot_of(np.array([block * context.block_size]))[0])
        if context.lod[slot] <= 1:
            return context
        context = context.edited_at(expand=[slot])


@torch.inference_mode()
def answer_nll(
    session: Session, contexts: list[WorkingContext], prompt: np.ndarray, answer: np.ndarray
) -> np.ndarray:
    """Nats of the whole `answer` (A,) after `prompt` (P,) given each of N contexts, float64 (N,).

    Read as in decoding: the budget binds the first token of the answer, those behind it come on top. Raises BudgetError
    for a context that does not fit the budget with the prompt.
    """
    base = session.bundle.base
    said = torch.from_numpy(answer.astype(np.int64)).to(base.device)
    found = []
    for at in range(0, len(contexts), _BATCH):
        readings = [session.read(context, prompt) for context in contexts[at : at + _BATCH]]
        batch = stack(readings, base)
        rows, width = batch.ids.shape
        cache = base.reserve(rows, width + len(answer) - 1)
        hidden = base(batch.embeddings, batch.positions, ids=batch.ids, padding=batch.padding, cache=cache)
        hidden = hidden[:, -1:]
        if len(answer) > 1:
            given = said[:-1].expand(rows, -1)
            behind = batch.positions[:, -1:] + torch.arange(1, len(answer), device=base.device)
            later = base(base.embed(given), behind, ids=given, cache=cache)
            hidden = torch.cat([hidden, later], dim=1)
        logits = base.unembed(hidden).double()  # (N, A, V)
        nll = -logits.log_softmax(dim=-1).gather(-1, said.expand(rows, -1)[..., None])
        found.append(nll[..., 0].sum(dim=1).cpu().numpy())
    return np.concatenate(found)


def block_scores(session: Session, arm: str, asked: Question, expansions: Expansions) -> np.ndarray:
    """The arm's score of each block's entry, in the context that its utility was measured in, float64 (num_blocks,)."""
    score = session.scorer(arm).ask(asked)
    scores = np.empty(len(expansions.utility))
    for number, context in enumerate(expansions.contexts):
        blocks = np.flatnonzero(expansions.context_of == number)
        scores[blocks] = score(context)[context.slot_of(blocks * context.block_size)]
    return scores


def first_place(scores: np.ndarray, utility: np.ndarray) -> float:
    """Chance that a block drawn from those of the highest score is one of the highest utility."""
    best = np.flatnonzero(scores == scores.max())
    return float((utility[best] == utility.max()).mean())


def wanted_other(scores: np.ndarray, utility: np.ndarray, is_needed: np.ndarray) -> float:
    """Mean utility of the blocks that score highest of those that are not needed."""
    best = ~is_needed & (scores == scores[~is_needed].max())
    return float(utility[best].mean())


def audit_tables(config: EvalConfig, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Each arm of each cell: means with intervals, as numbers and as a table, and what they say in words."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    audit, said = [], []
    for cell in config.cells():
        for arm in config.arms:
            mine = frame.filter((pl.col("cell") == cell.name) & (pl.col("arm") == arm))
            row: dict[str, Any] = {"history": cell.name, "arm": arm, "n": mine.height}
            for name in MEANS:
                values = mine[name].cast(pl.Float64).drop_nulls().to_numpy()
                row[name] = float(values.mean()) if len(values) else None
                row[f"{name}_low"], row[f"{name}_high"] = (
                    bootstrap_mean(values) if len(values) else (None, None)
                )
            row["first"] = float(mine["first"].mean())
            row["first_low"], row["first_high"] = wilson(round(row["first"] * mine.height), mine.height)
            best = float(mine["best_value_nats"].mean())
            row["share_of_best"] = (best - row["regret_nats"]) / best if best else None
            audit.append(row)
        leader = next((row for row in audit if row["arm"] == "lensnet"), audit[-1])
        smoke = "" if leader["n"] >= CLAIM else f" A smoke test: a claim needs {CLAIM} questions."
        said.append(
            f"audit {cell.name}: {leader['arm']} scores the most useful block highest for {leader['first']:.1%} of "
            f"{leader['n']} questions, and its context holds {share(leader['share_of_best'])} of the worth of the best "
            f"one.{smoke}"
        )
    return {"rows": [], "depth": [], "audit": audit, "sentences": said, "tables": shown(audit)}


def shown(audit: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures as tables of text."""
    return [
        {
            "title": "What opening one block saves",
            "note": "Nats of the answer, means over questions with 95 % intervals (bootstrap): of the blocks with the "
            "evidence, of all others, and of the one among the others that the arm scores highest.",
            "columns": ["cell", "arm", "evidence", "others", "highest of the others"],
            "rows": [
                [row["history"], row["arm"], _mean(row, "needed_nats"), _mean(row, "other_nats"),
                 _mean(row, "wanted_other_nats")]
                for row in audit
            ],
        },
        {
            "title": "Scores against utilities",
            "note": "Over all blocks of a history; means over questions with 95 % intervals (bootstrap, for first "
            "place Wilson).",
            "columns": ["cell", "arm", "n", "rank correlation", "most useful first"],
            "rows": [
                [row["history"], row["arm"], str(row["n"]), _mean(row, "spearman"), _mean(row, "first")]
                for row in audit
            ],
        },
        {
            "title": "What the chosen context is worth",
            "note": "In nats of a whole answer; means over questions with 95 % intervals (bootstrap). Regret and share "
            "of the best take utilities as additive; the answer's nats are measured.",
            "columns": ["cell", "arm", "regret", "share of best", "answer", "under the best", "under the cover"],
            "rows": [
                [row["history"], row["arm"], _mean(row, "regret_nats"), share(row["share_of_best"]),
                 _mean(row, "nll_nats"), _mean(row, "nll_best_nats"), _mean(row, "nll_cover_nats")]
                for row in audit
            ],
        },
    ]  # fmt: skip


def _mean(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} ({row[name + '_low']:.3f} to {row[name + '_high']:.3f})"
