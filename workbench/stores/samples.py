"""The samples behind a run's results: every line of its answers.jsonl, taken in as it is written, filtered and paged.

Whatever a run measures, it writes one JSON object a sample: a question and its answer, or a window of text and what it
cost behind each arm. Columns are those that the lines have; `sample` numbers the lines from 0, `group` is the cell of
the tables that a line counts in. A last line without its end is still being written.

Deliberately ignorant of which table a sample is looked for from.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

import polars as pl

from megacontext.errors import ConfigError

PAGE_ROWS = 25
NUMBER, GROUP = "sample", "group"
VERDICTS = {"right": True, "wrong": False}
DIFFERENCE = "difference"
"""What the gists of a window cost less (below 0) or more than what they stand beside; nats a token."""
_SAME_QUESTION = ("history", "question")
_SAME_WINDOW = ("cell", "genre", "text", "segment", "start", "start_block")
_TYPES: dict[str, pl.DataType] = {
    "history": pl.String(), "arm": pl.String(), "question": pl.Int64(), "kind": pl.String(), "prompt": pl.String(),
    "expected": pl.String(), "answered": pl.String(), "correct": pl.Boolean(), "hit": pl.Boolean(),
    "depth": pl.Float64(), "needed_blocks": pl.List(pl.Int64()), "cell": pl.String(), "seed": pl.Int64(),
}  # fmt: skip
"""Of the columns that are read by name."""
_SUBJECTS = ("gists", "gist", "gist-0", "embedding")
_REFERENCES = ("drop", "plain")


@dataclass(frozen=True)
class Page:
    """Some samples of a choice of them."""

    rows: pl.DataFrame
    total: int
    """Samples of the choice, over all pages."""
    right: int | None
    """Of these; None where samples are neither right nor wrong."""
    number: int
    """Of the page, from 0: the nearest that there is."""

    @property
    def pages(self) -> int:
        """At least one, be it empty."""
        return max(1, -(-self.total // PAGE_ROWS))


class Samples:
    """Of one run. Reads nothing before `refresh`."""

    def __init__(self, run: str | Path):
        self.path = Path(run) / "answers.jsonl"
        self.frame = _empty()
        self._bytes_read = 0
        self._head = b""

    def refresh(self) -> bool:
        """Take in the lines written since the last call; whether there were any. Raises ConfigError."""
        try:
            size = self.path.stat().st_size
            if size == self._bytes_read and size:
                return False
            with self.path.open("rb") as file:
                head = file.read(len(self._head))
                anew = head != self._head or size < self._bytes_read
                if anew:
                    self.frame, self._bytes_read = _empty(), 0
                file.seek(self._bytes_read)
                fresh = file.read()
        except FileNotFoundError:
            known, self.frame, self._bytes_read, self._head = len(self.frame), _empty(), 0, b""
            return bool(known)
        except OSError as problem:
            raise ConfigError(
                f"answers must be readable text, {self.path} is not ({problem}); run it again"
            ) from None
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        if not fresh:
            return anew
        grown = self._parsed(fresh)
        self._bytes_read += len(fresh)
        self._head = self._head or fresh[:256]
        self._join(grown)
        return True

    def select(
        self,
        conditions: Mapping[str, str],
        verdict: str = "",
        search: str = "",
        order: str = "",
        page: int = 0,
    ) -> Page:
        """A page of the samples that meet all conditions, hold the text `search`, and are right or wrong as asked.

        A condition on a column that the run does not have is met by no sample. `order` is a column, behind a minus for
        descending; what has no value comes last.
        """
        frame = self.frame.filter(_meet(self.frame, conditions))
        if search:
            texts = [name for name, dtype in frame.schema.items() if dtype == pl.String()]
            held = pl.concat_str(texts, separator="\n", ignore_nulls=True).str.to_lowercase()
            frame = frame.filter(held.str.contains(search.lower(), literal=True) if texts else pl.lit(False))
        judged = "correct" in frame.columns
        if judged and verdict in VERDICTS:
            frame = frame.filter(pl.col("correct") == VERDICTS[verdict])
        column = order.removeprefix("-")
        if column in frame.columns and not isinstance(frame.schema[column], pl.List | pl.Struct):
            frame = frame.sort(column, descending=order.startswith("-"), nulls_last=True, maintain_order=True)
        number = min(max(page, 0), max(0, (len(frame) - 1) // PAGE_ROWS))
        right = int(frame["correct"].sum()) if judged else None
        return Page(frame.slice(number * PAGE_ROWS, PAGE_ROWS), len(frame), right, number)

    def one(self, sample: int) -> dict[str, object] | None:
        """Everything that a line says; None for no such line."""
        if not 0 <= sample < len(self.frame):
            return None
        row = self.frame.row(sample, named=True)
        return {name: value for name, value in row.items() if value is not None}

    def beside(self, sample: int) -> pl.DataFrame:
        """The samples of the same question by every arm, or of the same window by every model; the one among them."""
        row = self.one(sample)
        keys = (
            ("history", "question")
            if "question" in self.frame.columns
            else ("cell", "genre", "text", "segment", "start")
        )
        shared = [key for key in keys if key in self.frame.columns]
        if row is None or not shared:
            return self.frame.head(0)
        return self.frame.filter(
            pl.all_horizontal(pl.col(key).eq_missing(pl.lit(row.get(key))) for key in shared)
        )

    def values(self, column: str) -> list[str]:
        """What a column says, each once, in the order in which it came; nothing where there is no such column."""
        if column not in self.frame.columns:
            return []
        return self.frame[column].drop_nulls().cast(pl.String()).unique(maintain_order=True).to_list()

    def _parsed(self, content: bytes) -> pl.DataFrame:
        try:
            return pl.read_ndjson(io.BytesIO(content), infer_schema_length=None)
        except pl.exceptions.PolarsError:
            # Slowly, to say which line it is; or to read what JSON of Python's knows beyond, such as NaN.
            return self._parsed_by_line(content)

    def _parsed_by_line(self, content: bytes) -> pl.DataFrame:
        rows = []
        for number, line in enumerate(content.split(b"\n"), start=1 + len(self.frame)):
            if line.strip():
                try:
                    row = json.loads(line)
                    assert isinstance(row, dict)
                except (ValueError, AssertionError):
                    raise ConfigError(
                        f"answers must be one JSON object a line, line {number} of {self.path} is none; run it again"
                    ) from None
                rows.append(row)
        try:
            return pl.DataFrame(rows, infer_schema_length=None)
        except (TypeError, pl.exceptions.PolarsError) as problem:
            raise self._of_other_types(problem) from None

    def _join(self, fresh: pl.DataFrame) -> None:
        first, derived = len(self.frame), (NUMBER, GROUP, DIFFERENCE)
        fresh = fresh.drop([name for name in derived if name in fresh.columns])
        try:
            fresh = fresh.cast({name: dtype for name, dtype in _TYPES.items() if name in fresh.columns})
            numbers = pl.int_range(pl.len(), dtype=pl.Int64()) + first
            fresh = _told(fresh).with_columns(numbers.alias(NUMBER))
            grown = fresh if self.frame.is_empty() else pl.concat([self.frame, fresh], how="diagonal_relaxed")
        except pl.exceptions.PolarsError as problem:
            raise self._of_other_types(problem) from None
        self.frame = grown.rechunk() if grown.n_chunks() > 32 else grown

    def _of_other_types(self, problem: Exception) -> ConfigError:
        return ConfigError(
            f"answers must keep their columns' types, {self.path} does not ({problem}); run it again"
        )


def conditions_of(text: str) -> dict[str, str]:
    """Conditions in an address."""
    return dict(parse_qsl(text))


def text_of_conditions(conditions: Mapping[str, str]) -> str:
    """Conditions as an address holds them."""
    return urlencode(conditions)


def scores_of(frame: pl.DataFrame) -> list[str]:
    """Columns of numbers that were measured for each arm of a window: the longest horizon where there are several."""
    floats = [
        name for name, dtype in frame.schema.items()
        if dtype == pl.Float64() and name not in ("depth", "latency_ms", "answer_s", DIFFERENCE)
    ]  # fmt: skip
    horizons = {int(name.rpartition("_")[2]) for name in floats if name.rpartition("_")[2].isdigit()}
    return [name for name in floats if name.endswith(f"_{max(horizons)}")] if horizons else floats


def arm_of(score: str) -> str:
    """The arm that a column of scores is of: `gists` for `gists_128`."""
    name, _, horizon = score.rpartition("_")
    return name if horizon.isdigit() else score


def compared_arms(frame: pl.DataFrame) -> tuple[str, str] | None:
    """The two columns of scores whose difference a window is judged by; None where there are none."""
    by_arm = {arm_of(score): score for score in scores_of(frame)}
    subject = next((by_arm[arm] for arm in _SUBJECTS if arm in by_arm), None)
    reference = next((by_arm[arm] for arm in _REFERENCES if arm in by_arm), None)
    return (subject, reference) if subject and reference else None


def _empty() -> pl.DataFrame:
    return pl.DataFrame(schema={NUMBER: pl.Int64()})


def _told(frame: pl.DataFrame) -> pl.DataFrame:
    """With the columns that are not in the lines but follow from them."""
    if "cell" in frame.columns:
        frame = frame.with_columns(pl.col("cell").cast(pl.String()).alias(GROUP))
    elif "history" in frame.columns:
        frame = frame.with_columns(
            pl.col("history").cast(pl.String()).str.replace(r"-[^-]*$", "").alias(GROUP)
        )
    if (compared := compared_arms(frame)) is not None:
        frame = frame.with_columns((pl.col(compared[0]) - pl.col(compared[1])).alias(DIFFERENCE))
    return frame


def _meet(frame: pl.DataFrame, conditions: Mapping[str, str]) -> pl.Expr:
    met = pl.lit(True)
    for column, wanted in conditions.items():
        if column not in frame.columns:
            met = pl.lit(False)
        elif column == "depth":
            met = met & _within(wanted)
        else:
            met = met & (pl.col(column).cast(pl.String(), strict=False) == wanted)
    return met


def _within(text: str) -> pl.Expr:
    """Depths from the first number up to the second, the last fifth with its end."""
    try:
        low, high = (float(number) for number in text.split("-"))
    except ValueError:
        return pl.lit(False)
    depth = pl.col("depth")
    return (depth >= low) & ((depth < high) | pl.lit(high >= 1))
