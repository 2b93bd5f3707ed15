"""What is selected: run, view, question, step, node and the rest. Views follow it, the address bar carries it.

Every selection has a URL, so that a place can be kept, reloaded and shared. What a URL asks for may not exist (a run
was deleted, a number mistyped): `settle` moves such a selection to the nearest thing that does. Deliberately ignorant
of what the selected things look like.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

import param

from workbench.stores.run import RunStore

VIEWS = {
    "runs": "Runs",
    "results": "Results",
    "tree": "Tree",
    "gists": "Gists",
    "focus": "Focus",
    "seen": "What the model saw",
    "talk": "Talk",
}
"""Name of each view in an address, and in words; in the order of the tabs."""
_SAMPLES = {"cell": "", "verdict": "", "search": "", "order": "", "page": -1, "sample": -1}
FRESH_WITH = {
    "run": {
        "history": "",
        "question": -1,
        "arm": "",
        "step": -1,
        "memory": "",
        "node": "",
        "span": "",
        "table": "",
    }
    | _SAMPLES,
    "history": {"question": -1, "step": -1, "memory": "", "node": "", "span": ""},
    "question": {"step": -1},
    "arm": {"step": -1},
    "table": _SAMPLES,
    "cell": {"page": -1, "sample": -1},
    "verdict": {"page": -1, "sample": -1},
    "search": {"page": -1, "sample": -1},
    "order": {"page": -1},
}
"""What a choice of another run, history and so on lets go of: it meant something of the one before."""
PREFERRED_ARMS = ("lensnet", "lensnet+bm25", "bm25", "oracle")


class Selection(param.Parameterized):
    """The selection of one page. Empty texts and -1 stand for nothing selected."""

    run = param.String(default="", doc="name of the run's folder")
    view = param.Selector(default="results", objects=list(VIEWS))
    history = param.String(default="")
    arm = param.String(default="")
    question = param.Integer(default=-1)
    step = param.Integer(default=-1, doc="refocus step; -1 for the last")
    against = param.String(
        default="", doc="scorer that the chosen arm's scores are held against; empty for none"
    )
    memory = param.String(default="", doc="name of a memory; empty for that of the history")
    node = param.String(default="", doc="a node of the tree as LOD:INDEX; a single token is 0:TOKEN")
    span = param.String(default="", doc="tokens that the tree shows as START-STOP; empty for all")
    compare = param.String(default="", doc="runs laid beside one another, with slashes between their names")
    curves = param.String(
        default="", doc="kind of telemetry whose curves are shown; empty for the first there is"
    )
    axis = param.String(default="", doc="what curves stand over: step, tokens or time; empty for step")
    smooth = param.Integer(
        default=-1, doc="half-life of the curves' smoothing in points; -1 for the usual one"
    )
    sort = param.String(
        default="", doc="column that the list of runs is sorted by, behind a minus for descending"
    )
    find = param.String(default="", doc="what the names of listed runs must hold")
    table = param.String(default="", doc="a table of the results")
    cell = param.String(default="", doc="what samples must be, as a query: cell=4k&arm=lensnet")
    verdict = param.String(default="", doc="right or wrong; empty for both")
    search = param.String(default="", doc="text that samples must hold")
    order = param.String(default="", doc="column that samples are sorted by, behind a minus for descending")
    page = param.Integer(default=-1, doc="page of the samples, from 0; -1 for the first")
    sample = param.Integer(default=-1, doc="a line of answers.jsonl, from 0")

    colour = param.String(default="", doc="what the tree is coloured by; empty for what suits it")
    query = param.String(default="", doc="what the colours of a query are about")
    text = param.String(default="", doc="text that is looked for in the memory")
    level = param.Integer(default=-1, doc="level whose gists are shown; -1 for the lowest that suits")
    dots = param.String(default="", doc="what gists are coloured by; empty for what suits them")
    layout = param.String(default="", doc="how gists are laid out; empty for principal components")
    model = param.String(default="", doc="who answers in Talk: a model that ships, or the path of a folder")
    scorer = param.String(default="", doc="who chooses what is read in Talk")
    pinned = param.String(default="", doc="tokens that stay in view in Talk, as START-STOP,START-STOP")

    KEYS = (
        "run", "view", "history", "arm", "question", "step", "against", "memory", "node", "span", "compare", "curves",
        "axis", "smooth", "sort", "find", "table", "cell", "verdict", "search", "order", "page", "sample", "colour",
        "query", "text", "level", "dots", "layout", "model", "scorer", "pinned",
    )  # fmt: skip

    passing = param.Boolean(
        default=False, doc="what is selected is passed through, as by playing; the address waits for the end"
    )

    def choose(self, **chosen: object) -> None:
        """Select, and let go of what meant something of what was selected before; what is chosen too stays."""
        freed: dict[str, object] = {}
        for name, value in chosen.items():
            if value != getattr(self, name):
                freed |= FRESH_WITH.get(name, {})
        self.param.update(**freed | chosen)

    def to_query(self) -> str:
        """The selection as a URL query with its question mark; only what is selected."""
        chosen = {key: getattr(self, key) for key in self.KEYS}
        return "?" + urlencode({key: value for key, value in chosen.items() if value not in ("", -1)})

    def take_query(self, query: str, whole: bool = False) -> None:
        """Select what a URL query asks for; whatever it says that cannot be is left as it is.

        `whole`: what it does not say is not selected any more, but for the run; as when somebody goes back.
        """
        asked = dict(parse_qsl(query.lstrip("?")))
        values: dict[str, object] = {}
        for key in self.KEYS:
            text = asked.get(key)
            if text is None:
                if whole and key != "run":
                    values[key] = self.param[key].default
            elif isinstance(self.param[key], param.Integer):
                # Digits only: int() would also take underscores and blanks; nothing here needs more than nine.
                if text.isascii() and text.isdigit() and len(text) < 10:
                    values[key] = int(text)
            elif key != "view" or text in VIEWS:
                values[key] = text
        self.param.update(**values)

    def settle(self, store: RunStore) -> None:
        """Move whatever the run does not have to something that it has; the first traced question if free."""
        histories = store.histories()
        history = self.history if self.history in histories else next(iter(histories), "")
        questions = store.questions(history) if history else None
        known = [] if questions is None else questions["question"].to_list()
        traced = [] if questions is None else questions.filter(questions["traced"])["question"].to_list()
        question = self.question if self.question in known else next(iter(traced or known), -1)
        arms = store.traced_arms(history, question)
        arm = self.arm if self.arm in arms else _preferred(arms)
        steps = store.focus_steps(history, arm, question)["step"] if arm else []
        step = self.step if self.step in list(steps) else -1
        self.param.update(history=history, question=question, arm=arm, step=step)


def _preferred(arms: list[str]) -> str:
    return next((arm for arm in PREFERRED_ARMS if arm in arms), arms[0] if arms else "")


def spans_of(text: str) -> list[tuple[int, int]]:
    """Spans of tokens written as START-STOP,START-STOP, sorted; whatever is none is left out."""
    spans = set()
    for one in text.split(","):
        ends = one.split("-")
        if len(ends) == 2 and all(end.isascii() and end.isdigit() and len(end) < 16 for end in ends):
            start, stop = map(int, ends)
            if start < stop:
                spans.add((start, stop))
    return sorted(spans)


def query_of(values: Mapping[str, object]) -> str:
    """A query for a link to a selection, as `to_query` writes it."""
    return Selection(**values).to_query()
