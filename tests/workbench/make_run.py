"""Makes a small run folder that looks like a real one: contexts from the real allocator, answers from dice.

Used by the tests, and by hand: `python tests/workbench/make_run.py runs/made`.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from megacontext.focus.allocator import AllocatorConfig, AllocatorState, fit, refocus
from megacontext.focus.context import WorkingContext
from megacontext.telemetry import TelemetryWriter

K = 32
BUDGET = 256
ARMS = ("none", "recency", "sinks+recency", "random", "bm25", "lensnet", "lensnet+bm25", "oracle")
SKILL = {
    "none": 0.05, "recency": 0.1, "sinks+recency": 0.1, "random": 0.12, "bm25": 0.8, "lensnet": 0.9,
    "lensnet+bm25": 0.93, "oracle": 0.99,
}  # fmt: skip
HISTORIES = {"16k-0": 16_384, "16k-1": 16_384, "book-0": 200_017}
CHUNK_TOKENS = 2_048


def now() -> str:
    return datetime.now(UTC).isoformat()


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1))


def run_json(name: str, **changes: object) -> dict[str, object]:
    return {
        "format": 1, "name": name, "kind": "demo", "status": "done", "pid": os.getpid(),
        "started": "2025-01-01T10:00:00+00:00", "finished": "2025-01-01T10:02:31+00:00", "heartbeat": now(),
        "seed": 7, "recipe_fingerprint": "0123456789abcdef", "model_fingerprint": "fedcba9876543210",
        "device": "cpu", "versions": {"megacontext": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "message": "", "book": {"title": "Emma", "licence": "public domain"}, "budget_positions": BUDGET,
    } | changes  # fmt: skip


def block_scores(blocks: int, needed: list[int], rng: np.random.Generator) -> np.ndarray:
    """Cosines as an address search gives them: noise around 0, a few near misses, the needed blocks high."""
    scores = rng.normal(0.02, 0.09, blocks)
    scores[rng.integers(0, blocks, 4)] += 0.25
    scores[needed] = 0.78 + 0.1 * rng.random(len(needed))
    return np.clip(scores, -1, 1)


def entry_scores(context: WorkingContext, blocks: np.ndarray) -> np.ndarray:
    """Per entry the highest score below it, spread so that what does not matter is negative."""
    tail = np.full(-(-context.num_tokens // K) - len(blocks), blocks.mean())
    best = np.maximum.reduceat(np.concatenate([blocks, tail]), context.start // K)
    return np.clip(best * 1.6 - 0.75, -1, 1)


def trace(
    writer: TelemetryWriter, history: str, arm: str, question: int, blocks: np.ndarray
) -> tuple[int, WorkingContext]:
    """Refocus from a recent start, recorded step by step; the final context."""
    num_tokens = HISTORIES[history]
    context = fit(WorkingContext.raw(num_tokens, K), BUDGET)
    steps = refocus(
        context, lambda c: entry_scores(c, blocks), BUDGET, AllocatorState(), AllocatorConfig(), 12
    )
    for step, seen in enumerate(steps):
        edit = np.full(len(seen.context), "", dtype=object)
        for change in seen.edits:
            edit[change.slot] = change.kind
        writer.emit_frame("entry", pl.DataFrame({
            "history": [history] * len(edit), "arm": arm, "question": question, "step": step,
            "slot": np.arange(len(edit)), "lod": seen.context.lod, "index": seen.context.index,
            "start": seen.context.start, "stop": seen.context.stop, "cost_positions": seen.context.costs,
            "score": seen.scores, "edit": edit.tolist(),
        }))  # fmt: skip
        writer.emit(
            "focus", history=history, arm=arm, question=question, step=step, entries=len(edit),
            cost_positions=seen.context.cost, budget_positions=BUDGET,
            expanded=sum(e.kind == "expand" for e in seen.edits),
            collapsed=sum(e.kind == "collapse" for e in seen.edits),
            refused=seen.refused, score_max=float(seen.scores.max()), latency_ms=seen.latency_ms,
        )  # fmt: skip
    return len(steps), steps[-1].context


def ingest_rows(history: str, rng: np.random.Generator) -> list[dict[str, object]]:
    rows, wall = [], 0.0
    for total in [*range(CHUNK_TOKENS, HISTORIES[history], CHUNK_TOKENS), HISTORIES[history]]:
        speed = float(rng.normal(31_000, 2_500))
        wall += CHUNK_TOKENS / speed
        rows.append({
            "history": history, "wall_s": wall, "tokens_total": total, "blocks_total": total // K,
            "tokens_per_s": speed, "store_bytes": 65_536 + total * 10,
        })  # fmt: skip
    return rows


def train_rows(steps: range, rng: np.random.Generator) -> list[dict[str, object]]:
    rows = []
    for step in steps:
        fade = np.exp(-step / 90)
        stage = "base" if step < 300 else "lens"
        rows.append({
            "step": step, "stage": stage, "wall_s": step * 0.4, "tokens_seen": step * 4096,
            "loss_nats": 2.2 + 4.5 * fade + rng.normal(0, 0.05), "lm_loss_nats": 3.1 + 3 * fade,
            "answer_accuracy": float(np.clip(1 - fade * 1.1, 0, 0.97)),
            "address_accuracy": float(np.clip(0.93 - fade, 0, 1)),
            "lens_accuracy": None if step < 300 else float(np.clip(0.9 - np.exp(-(step - 300) / 60), 0, 1)),
            "learning_rate": 0.02 * min(1, step / 50), "tokens_per_s": 10_000 + rng.normal(0, 300),
        })  # fmt: skip
    return rows


def summarise(answers: pl.DataFrame) -> dict[str, object]:
    """results.json by its contract. The intervals are Wilson's, as in the real one."""
    rows, depth = [], []
    for (group, arm), part in answers.group_by("group", "arm", maintain_order=True):
        n, hits = len(part), int(part["correct"].sum())
        low, high = wilson(hits, n)
        oracle = answers.filter((pl.col("group") == group) & (pl.col("arm") == "oracle"))["correct"].mean()
        kinds = {kind: part.filter(pl.col("kind") == kind) for kind in ("plain", "superseded")}
        rows.append({
            "history": group, "history_tokens": 16_384 if group == "16k" else 200_017, "arm": arm, "n": n,
            "correct": hits, "accuracy": hits / n, "low": low, "high": high,
            "plain_accuracy": kinds["plain"]["correct"].mean(), "plain_n": len(kinds["plain"]),
            "superseded_accuracy": kinds["superseded"]["correct"].mean(), "superseded_n": len(kinds["superseded"]),
            "hit_rate": part["hit"].mean(), "cost_positions_mean": part["cost_positions"].mean(),
            "bytes_per_step": 262_144 if arm != "none" else 8_192, "of_oracle": hits / n / oracle,
        })  # fmt: skip
        binned = part.with_columns(bin=(pl.col("depth") * 5).floor().clip(0, 4).cast(pl.Int64))
        for (at,), some in binned.group_by("bin"):
            depth.append({
                "history": group, "arm": arm, "depth_bin": at, "depth_low": at / 5, "depth_high": (at + 1) / 5,
                "n": len(some), "accuracy": some["correct"].mean(),
            })  # fmt: skip
    ingest = [
        {"history": name, "tokens": n, "wall_s": n / 31_000, "tokens_per_s": 31_000, "store_bytes": 65_536 + n * 10,
         "bytes_per_token": 10.3, "flops": n * 2e6}
        for name, n in HISTORIES.items()
    ]  # fmt: skip
    sentence = (
        "At 16k tokens of history and a budget of 256 positions, LensNet answers 92 % as many as the oracle."
    )
    return {"rows": rows, "depth": depth, "ingest": ingest, "sentences": [sentence, "BM25 stands beside it."]}


def wilson(hits: int, n: int) -> tuple[float, float]:
    z, p = 1.959964, hits / n
    centre, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return float((centre - half) / (1 + z * z / n)), float((centre + half) / (1 + z * z / n))


def make_run(
    folder: Path,
    *,
    questions: int = 24,
    traced: int = 3,
    seed: int = 7,
    prompt: str | None = None,
    **run: object,
) -> Path:
    """A finished run. `prompt` replaces the text of every question, `run` changes run.json."""
    folder = Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines, answers = [], []
    with TelemetryWriter(folder / "telemetry") as writer:
        for row in train_rows(range(0, 600, 5), rng):
            writer.emit("train", **row)
        for history, num_tokens in HISTORIES.items():
            for row in ingest_rows(history, rng):
                writer.emit("ingest", **row)
            for question in range(questions):
                superseded = question % 3 == 2
                blocks = num_tokens // K
                depth = (question + 0.5) / questions
                needed = [int(depth * (blocks - 2))]
                scores = block_scores(blocks, needed, rng)
                if question < traced:
                    writer.emit_frame("block_score", pl.DataFrame({
                        "history": [history] * blocks, "question": question, "block": np.arange(blocks),
                        "score": scores,
                    }))  # fmt: skip
                place = ("lantern", "orchard", "harbour", "ledger")[question % 4]
                text = prompt or f"The number of the {place} in room {question} is"
                expected = f"{rng.integers(100, 1000)}"
                for arm in ARMS:
                    if question < traced and arm not in ("none", "recency", "sinks+recency"):
                        noise = rng.random(blocks) - 0.5 if arm == "random" else scores
                        trace(writer, history, arm, question, noise)
                    correct = bool(rng.random() < SKILL[arm] - (0.35 if superseded and arm == "bm25" else 0))
                    answered = expected if correct else f"{rng.integers(100, 1000)}"
                    shared = {
                        "history": history, "arm": arm, "question": question,
                        "kind": "superseded" if superseded else "plain", "versions": 3 if superseded else 1,
                        "depth": depth, "expected": expected, "answered": answered, "correct": correct,
                        "cost_positions": 24 if arm == "none" else 250, "hit": correct,
                    }  # fmt: skip
                    writer.emit(
                        "answer", **shared, budget_positions=BUDGET, latency_ms=float(rng.gamma(4, 6))
                    )
                    lines.append(json.dumps(shared | {"prompt": text, "needed_blocks": needed}))
                    answers.append(shared | {"group": history.rpartition("-")[0]})
    (folder / "answers.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "recipe.toml").write_text(
        "seed = 7\n\n[memory]\nblock_size = 32\n\n[focus]\nbudget = 256\nthreshold = 0.2\nmax_edits = 4\n"
    )
    write_json(folder / "results.json", summarise(pl.DataFrame(answers)))
    write_json(folder / "run.json", run_json(folder.name, **run))
    return folder


if __name__ == "__main__":
    print(make_run(Path(sys.argv[1])))
