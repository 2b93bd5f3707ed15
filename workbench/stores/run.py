"""What the pages know about a run: frames, computed with polars from its folder, while it goes on or afterwards.

A `RunStore` reads run.json, recipe.toml, answers.jsonl, results.json and the telemetry, and never writes. Telemetry
grows: `refresh` takes in what is new and says whether anything changed; every other method answers from what was
taken in. Whatever is wrong with a folder becomes a ConfigError, one sentence to be shown.

Deliberately ignorant of plots, pages and selections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import polars as pl

from megacontext.errors import ConfigError
from megacontext.telemetry import SCHEMAS, TelemetryTail
from workbench.palette import arm_order
from workbench.stores.recipes import find, read_recipe
from workbench.stores.runs import json_object, read_info
from workbench.stores.samples import Samples

P, T = ParamSpec("P"), TypeVar("T")
FOUND_KEPT = 256
"""Answers that a store keeps."""
DEPTH_BINS = 5
_UNREAD = (-1, -1)
"""The stamp of a file that could not be read: no file has it, so it is tried again."""

_ROWS: dict[str, pl.DataType] = {
    "history": pl.String(), "history_tokens": pl.Int64(), "arm": pl.String(), "n": pl.Int64(), "correct": pl.Int64(),
    "accuracy": pl.Float64(), "low": pl.Float64(), "high": pl.Float64(), "plain_accuracy": pl.Float64(),
    "plain_n": pl.Int64(), "superseded_accuracy": pl.Float64(), "superseded_n": pl.Int64(),
    "hit_rate": pl.Float64(), "cost_positions_mean": pl.Float64(), "bytes_per_step": pl.Float64(),
    "of_oracle": pl.Float64(),
}  # fmt: skip
_DEPTH: dict[str, pl.DataType] = {
    "history": pl.String(), "arm": pl.String(), "depth_bin": pl.Int64(), "depth_low": pl.Float64(),
    "depth_high": pl.Float64(), "n": pl.Int64(), "accuracy": pl.Float64(),
}  # fmt: skip
_INGEST: dict[str, pl.DataType] = {
    "history": pl.String(), "tokens": pl.Int64(), "wall_s": pl.Float64(), "tokens_per_s": pl.Float64(),
    "store_bytes": pl.Int64(), "bytes_per_token": pl.Float64(), "flops": pl.Float64(),
}  # fmt: skip
_LINES: dict[str, pl.DataType] = {
    "history": pl.String(), "arm": pl.String(), "question": pl.Int64(), "prompt": pl.String(),
    "needed_blocks": pl.List(pl.Int64()),
}  # fmt: skip


def group_of(history: str) -> str:
    """The group that a history belongs to: what stands before its last hyphen, `16k` for `16k-3`."""
    return history.rpartition("-")[0] or history


def _kept(method: Callable[P, T]) -> Callable[P, T]:
    """What a store found, as long as nothing new is taken in: a page asks the same a dozen times in one step."""

    @wraps(method)
    def found(*args: P.args, **named: P.kwargs) -> T:
        store = cast("RunStore", args[0])
        if store._found_at != store.revision or len(store._found) >= FOUND_KEPT:
            store._found.clear()
            store._found_at = store.revision
        key = (method.__name__, args[1:], tuple(named.items()))
        if key not in store._found:
            store._found[key] = method(*args, **named)
        return cast(T, store._found[key])

    return found


class RunStore:
    """One run. Raises ConfigError at once if `path` is no run folder, and in `refresh` when it stops being one."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.name = self.path.name
        self._tail = TelemetryTail(self.path / "telemetry")
        self._frames = {kind: pl.DataFrame(schema=schema) for kind, schema in SCHEMAS.items()}
        self._stamps: dict[str, tuple[int, int] | None] = {}
        self.samples = Samples(self.path)
        """Every line of answers.jsonl."""
        self._lines = pl.DataFrame(schema=_LINES)
        self._results: dict[str, Any] = {}
        self.recipe_text = ""
        self.recipe: dict[str, Any] = {}
        self.info = read_info(self.path)
        self._found: dict[tuple[object, ...], Any] = {}
        self._found_at = 0
        self.revision = 0
        """Another one whenever something new was taken in."""
        self.refresh()

    def refresh(self) -> bool:
        """Take in what was written since the last call; whether that was anything. Raises ConfigError.

        What cannot be read is told by every call until it can. Pages that share the store tell by `revision` what each
        of them has not shown yet.
        """
        before = self.revision
        if self._touched("run.json") or self.info.status == "running":
            with self._reading("run.json"):
                info = read_info(self.path)
            self.revision += info != self.info
            self.info = info
        if self._touched("recipe.toml"):
            with self._reading("recipe.toml"):
                self.recipe_text, self.recipe = read_recipe(self.path)
            self.revision += 1
        if self.samples.refresh():
            self._lines = _lines_of(self.samples.frame)
            self.revision += 1
        if self._touched("results.json"):
            with self._reading("results.json"):
                self._results = json_object(self.path / "results.json", "results must be readable") or {}
            self.revision += 1
        for kind in SCHEMAS:
            fresh = self._tail.new(kind)
            if len(fresh):
                # Parts come by the second: whole again now and then, or every filter would walk thousands of pieces.
                grown = pl.concat([self._frames[kind], fresh])
                self._frames[kind] = grown.rechunk() if grown.n_chunks() > 32 else grown
                self.revision += 1
        return self.revision != before

    @property
    def state(self) -> str:
        """One of STATUSES, as of now."""
        return self.info.state()

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.state == "running"

    def frame(self, kind: str) -> pl.DataFrame:
        """All rows of a telemetry kind that were taken in; only ever grows at its end."""
        if kind not in self._frames:
            raise ConfigError(f"unknown telemetry kind {kind!r}; known are {', '.join(SCHEMAS)}")
        return self._frames[kind]

    # Results -------------------------------------------------------------------------------------------------

    @property
    def final(self) -> bool:
        """Whether results.json is there; before that, `rows` and `depth` are what the answers say so far."""
        return bool(self._results)

    @property
    def results(self) -> dict[str, Any]:
        """Everything that results.json says; empty before it is there."""
        return self._results

    @property
    def sentences(self) -> list[str]:
        """What the run concluded, in words."""
        return [str(sentence) for sentence in self._results.get("sentences", [])]

    @property
    def tables(self) -> list[dict[str, Any]]:
        """Tables that the run wrote as text: title, note, columns and rows."""
        return [
            {
                "title": str(table.get("title", "")),
                "note": str(table.get("note", "")),
                "columns": [str(name) for name in table.get("columns", [])],
                "rows": [[str(cell) for cell in row] for row in table.get("rows", [])],
            }
            for table in self._results.get("tables", [])
        ]

    @_kept
    def rows(self, group: str | None = None) -> pl.DataFrame:
        """One row per history group and arm, floor to ceiling. Intervals and ratios are null before the end."""
        frame = self._result_frame("rows", _ROWS) if self.final else self._rows_so_far()
        return _ordered(frame if group is None else frame.filter(pl.col("history") == group))

    @_kept
    def depth(self, group: str | None = None) -> pl.DataFrame:
        """Accuracy per history group, arm and fifth of the history's length."""
        frame = self._result_frame("depth", _DEPTH) if self.final else self._depth_so_far()
        return _ordered(frame if group is None else frame.filter(pl.col("history") == group))

    def ingest_summary(self) -> pl.DataFrame:
        """One row per history: tokens, seconds, bytes; of a run in progress as far as it has come."""
        if self.final and self._results.get("ingest"):
            return self._result_frame("ingest", _INGEST)
        last = self.frame("ingest").group_by("history", maintain_order=True).last()
        return last.select(
            "history",
            pl.col("tokens_total").alias("tokens"),
            "wall_s",
            (pl.col("tokens_total") / pl.col("wall_s")).alias("tokens_per_s"),
            "store_bytes",
            (pl.col("store_bytes") / pl.col("tokens_total")).alias("bytes_per_token"),
            pl.lit(None, dtype=pl.Float64()).alias("flops"),
        )

    @_kept
    def groups(self) -> list[str]:
        """History groups, in the order in which they came."""
        return self.rows()["history"].unique(maintain_order=True).to_list()

    # Questions -----------------------------------------------------------------------------------------------

    @_kept
    def histories(self) -> list[str]:
        """Names of the histories that have questions, or at least tokens; those that were traced come first."""
        traced = self.frame("entry")["history"].unique(maintain_order=True).to_list()
        asked = self.frame("answer")["history"].unique(maintain_order=True).to_list()
        stored = self.frame("ingest")["history"].unique(maintain_order=True).to_list()
        return list(dict.fromkeys([*traced, *asked, *stored]))

    @_kept
    def questions(self, history: str) -> pl.DataFrame:
        """One row per question: question, kind, versions, depth, expected, prompt, needed_blocks, traced."""
        asked = (
            self.frame("answer")
            .filter(pl.col("history") == history)
            .unique("question", keep="first", maintain_order=True)
            .select("question", "kind", "versions", "depth", "expected")
        )
        lines = (
            self._lines.filter(pl.col("history") == history)
            .unique("question", keep="first")
            .select("question", "prompt", "needed_blocks")
        )
        traced = self._traced(history)
        # A live run may have traced a question that it has not answered yet.
        known = pl.concat([asked.select("question"), traced.select("question")]).unique()
        return (
            known.join(asked, on="question", how="left")
            .join(lines, on="question", how="left")
            .join(traced, on="question", how="left")
            .with_columns(pl.col("traced").fill_null(False))
            .sort("question")
        )

    @_kept
    def answers(self, history: str, question: int) -> pl.DataFrame:
        """One row per arm that answered this question, floor to ceiling."""
        return _ordered(
            self.frame("answer").filter((pl.col("history") == history) & (pl.col("question") == question))
        )

    @_kept
    def traced_arms(self, history: str, question: int) -> list[str]:
        """Arms whose refocus steps were recorded for this question."""
        rows = self.frame("entry").filter((pl.col("history") == history) & (pl.col("question") == question))
        return arm_order(rows["arm"].unique().to_list())

    @_kept
    def entries(self, history: str, arm: str, question: int, step: int | None = None) -> pl.DataFrame:
        """Entries of the working context, of one refocus step or of all, in slot order within each."""
        rows = self.frame("entry").filter(
            (pl.col("history") == history) & (pl.col("arm") == arm) & (pl.col("question") == question)
        )
        return (rows if step is None else rows.filter(pl.col("step") == step)).sort("step", "slot")

    @_kept
    def focus_steps(self, history: str, arm: str, question: int) -> pl.DataFrame:
        """One row per refocus step of a question, in order."""
        return (
            self.frame("focus")
            .filter(
                (pl.col("history") == history) & (pl.col("arm") == arm) & (pl.col("question") == question)
            )
            .sort("step")
        )

    def block_scores(self, history: str, question: int) -> pl.DataFrame:
        """Similarity of each block's address with the question, columns block and score; empty if not traced."""
        return (
            self.frame("block_score")
            .filter((pl.col("history") == history) & (pl.col("question") == question))
            .select("block", "score")
            .sort("block")
        )

    @_kept
    def num_tokens(self, history: str) -> int:
        """How long a history is, as far as telemetry has come; 0 if it says nothing."""
        stored = self.frame("ingest").filter(pl.col("history") == history)["tokens_total"].max()
        covered = self.frame("entry").filter(pl.col("history") == history)["stop"].max()
        return int(max(stored or 0, covered or 0))

    @_kept
    def needed_tokens(self, history: str, question: int) -> list[int]:
        """A token in the middle of each block that holds the answer; none where that is not known."""
        rows = self.questions(history).filter(pl.col("question") == question)["needed_blocks"].to_list()
        blocks, block_size = (rows or [None])[0] or [], self.block_size
        return [block * block_size + block_size // 2 for block in blocks] if block_size else []

    @property
    def block_size(self) -> int | None:
        """K: what the recipe says, or what a gist of level 1 spans; None before either is known."""
        if isinstance(known := find(self.recipe, "block_size"), int):
            return known
        first = self.frame("entry").filter(pl.col("lod") == 1).head(1)
        return None if first.is_empty() else int(first["stop"][0] - first["start"][0])

    @property
    def threshold(self) -> float | None:
        """The allocator's threshold by the recipe, if it says so."""
        known = find(self.recipe, "threshold")
        return float(known) if isinstance(known, (int, float)) else None

    # Reading -------------------------------------------------------------------------------------------------

    def _touched(self, name: str) -> bool:
        """Whether a file is another one than at the last call."""
        try:
            status = (self.path / name).stat()
            stamp = (status.st_mtime_ns, status.st_size)
        except OSError:
            stamp = None
        if name in self._stamps and self._stamps[name] == stamp:
            return False
        known = name in self._stamps
        self._stamps[name] = stamp
        return known or stamp is not None

    @contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """A file that cannot be read counts as not yet read."""
        try:
            yield
        except ConfigError:
            self._stamps[name] = _UNREAD
            raise

    def _result_frame(self, table: str, schema: dict[str, pl.DataType]) -> pl.DataFrame:
        try:
            rows = [{name: row.get(name) for name in schema} for row in self._results.get(table, [])]
            return pl.DataFrame(rows, schema=schema, strict=False)
        except (AttributeError, TypeError, pl.exceptions.PolarsError) as problem:
            raise ConfigError(
                f"results.json must hold {table} as a list of objects, {self.path} does not ({problem}); run it again"
            ) from None

    def _grouped_answers(self) -> pl.DataFrame:
        return self.frame("answer").with_columns(
            group=pl.col("history").str.replace(r"-[^-]*$", ""), right=pl.col("correct").fill_null(False)
        )

    def _rows_so_far(self) -> pl.DataFrame:
        answers = self._grouped_answers()
        lengths = {history: self.num_tokens(history) for history in answers["history"].unique()}
        plain, superseded = pl.col("kind") == "plain", pl.col("kind") == "superseded"
        right = pl.col("right")
        rows = (
            answers.with_columns(
                length=pl.col("history").replace_strict(lengths, return_dtype=pl.Int64, default=None)
            )
            .group_by("group", "arm", maintain_order=True)
            .agg(
                history_tokens=pl.col("length").max(),
                n=pl.len().cast(pl.Int64),
                correct=right.sum().cast(pl.Int64),
                accuracy=right.mean(),
                plain_accuracy=right.filter(plain).mean(),
                plain_n=plain.sum().cast(pl.Int64),
                superseded_accuracy=right.filter(superseded).mean(),
                superseded_n=superseded.sum().cast(pl.Int64),
                hit_rate=pl.col("hit").mean(),
                cost_positions_mean=pl.col("cost_positions").mean(),
            )
            .rename({"group": "history"})
        )
        missing = [name for name in _ROWS if name not in rows.columns]
        return rows.with_columns(pl.lit(None).alias(name) for name in missing).select(
            pl.col(name).cast(dtype) for name, dtype in _ROWS.items()
        )

    def _depth_so_far(self) -> pl.DataFrame:
        place = (pl.col("depth") * DEPTH_BINS).floor().clip(0, DEPTH_BINS - 1).cast(pl.Int64)
        return (
            self._grouped_answers()
            .filter(pl.col("depth").is_not_null())
            .group_by("group", "arm", place.alias("depth_bin"), maintain_order=True)
            .agg(n=pl.len().cast(pl.Int64), accuracy=pl.col("right").mean())
            .with_columns(
                depth_low=pl.col("depth_bin") / DEPTH_BINS, depth_high=(pl.col("depth_bin") + 1) / DEPTH_BINS
            )
            .rename({"group": "history"})
            .select(pl.col(name).cast(dtype) for name, dtype in _DEPTH.items())
        )

    def _traced(self, history: str) -> pl.DataFrame:
        entries = self.frame("entry").filter(pl.col("history") == history).select("question")
        blocks = self.frame("block_score").filter(pl.col("history") == history).select("question")
        return pl.concat([entries, blocks]).unique().with_columns(traced=pl.lit(True))


def _ordered(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows by arm, floor to ceiling, histories kept in their order."""
    places = {arm: place for place, arm in enumerate(arm_order(frame["arm"].to_list()))}
    histories = {name: place for place, name in enumerate(frame["history"].unique(maintain_order=True))}
    order = [(histories[row[0]], places[row[1]]) for row in frame.select("history", "arm").iter_rows()]
    return frame[sorted(range(len(frame)), key=order.__getitem__)]


def _lines_of(samples: pl.DataFrame) -> pl.DataFrame:
    """Prompts and needed blocks of the samples; of windows of text both are open."""
    present = set(samples.columns)
    return samples.select(
        (pl.col(name) if name in present else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in _LINES.items()
    )
