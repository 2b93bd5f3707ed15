"""One node in words: where it stands, what it says, where that comes from, what is near, who opened it.

Facts come from `workbench.stores.nodes`; all text of the memory passes `plain`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from markupsafe import Markup

from megacontext.spans import Node
from workbench.stores.background import Job
from workbench.stores.finding import Place
from workbench.stores.nodes import Facts, Near, NodeEdit, text_of
from workbench.stores.vocabulary import Vocabulary
from workbench.text import arm_name, count, percent, plain, table
from workbench.views.parts import empty, pairs

HrefOf = Callable[[Node], str]
_MOST_CHARACTERS = 1_500
_MOST_EDITS = 12


def node_name(node: Node) -> str:
    """`L2 · 37`, or `token 1,207`."""
    return f"token {node.index:,}" if node.lod == 0 else f"L{node.lod} · {node.index:,}"


def jump(node: Node, href: HrefOf, words: str = "") -> Markup:
    """A link that selects a node."""
    return Markup('<a href="{}" data-jump="{}:{}">{}</a>').format(
        href(node), node.lod, node.index, words or node_name(node)
    )


def node_words(facts: Facts, vocabulary: Job[Vocabulary], value: tuple[str, str], href: HrefOf) -> Markup:
    """What the memory says of a node. `value` is the name of the colouring's value, and the value."""
    node, span = facts.node, facts.span
    where = f"tokens {span.start:,} to {span.stop:,}" if node.lod else f"token {span.start:,}"
    if not facts.complete:
        where += ", in the unfinished block at the end"
    items: list[tuple[str, Markup | str]] = [("stands for", where), value]
    if facts.gone:
        items.append(("was", f"{facts.gone}, at least in part: filler stands in its place"))
    items.append(("from", _cited(facts)))
    inside = Markup("–") if facts.parent is None else jump(facts.parent, href)
    items.append(("inside", inside))
    if facts.children is not None:
        first, last = facts.children
        named = Markup("{} to {}").format(jump(first, href), jump(last, href))
        items.append(("made of", named))
    items.append(("gists", _versions(facts)))
    if facts.access is not None:
        items.append(("read", _access(facts)))
    return Markup("{}{}").format(pairs(items), _text(facts, vocabulary))


def near_words(near: Job[list[Near]], texts: Sequence[str], href: HrefOf) -> Markup:
    """Links to the blocks whose addresses are nearest, with the beginning of what they say."""
    if not near.done:
        return Markup('<p class="muted">{} …</p>').format(near.what or "matching addresses")
    if near.failed:
        return Markup('<p class="muted">{}</p>').format(plain(near.sentence))
    if not near.result:
        return Markup('<p class="muted">Nothing else is in this memory.</p>')
    rows = Markup("").join(
        Markup("<li>{} <span class='muted'>{:+.2f}</span> {}</li>").format(
            jump(one.node, href), one.similarity, plain(" ".join(text.split()), 90)
        )
        for one, text in zip(near.result, texts, strict=True)
    )
    return Markup("<ol>{}</ol>").format(rows)


def edit_words(edits: list[NodeEdit]) -> Markup:
    """When arms of the run opened a node or closed it."""
    if not edits:
        return Markup('<p class="muted">No traced question of this run opened or closed it.</p>')
    lines = [
        (arm_name(one.arm), one.question, one.step, "opened" if one.edit == "expand" else "closed",
         "–" if one.score is None else f"{one.score:+.2f}")
        for one in edits[:_MOST_EDITS]
    ]  # fmt: skip
    more = len(edits) - _MOST_EDITS
    said = Markup('<p class="muted">and {} more</p>').format(more) if more > 0 else Markup("")
    return table(("arm", "question", "step", "", "score"), lines) + said


def place_words(found: Job[list[Place]], asked: str, most: int, href: HrefOf) -> Markup:
    """Where a text stands, each place a link, with the words around it."""
    if not found.done:
        done = f" · {percent(found.share, 0)}" if found.share else ""
        return Markup('<p class="muted" role="status">{}{} …</p>').format(found.what or "searching", done)
    if found.failed:
        return Markup('<p class="muted">{}</p>').format(plain(found.sentence))
    if not found.result:
        return empty(
            "Nowhere in this memory", "Signs must match exactly, capitals and spaces too; try fewer of them."
        )
    lines = Markup("").join(
        Markup("<li>{} <span class='quote'>{}<mark>{}</mark>{}</span></li>").format(
            jump(Node(0, place.start), href, f"{place.start:,}"), plain(_tail(place.before), 80),
            plain(place.text, 200), plain(_flat(place.after), 80),
        )
        for place in found.result
    )  # fmt: skip
    number = len(found.result)
    head = (
        f"The first {number} places" if number >= most else "1 place" if number == 1 else f"{number} places"
    )
    return Markup('<p class="muted">{} with “{}”</p><ol class="places">{}</ol>').format(
        head, plain(asked, 60), lines
    )


def _flat(text: str) -> str:
    return text.replace("\n", " ⏎ ")


def _tail(text: str) -> str:
    return _flat(text)[-80:]


def _cited(facts: Facts) -> Markup:
    if not facts.cited:
        return Markup("no document")
    named = Markup("<br>").join(plain(str(citation), 160) for citation in facts.cited)
    more = facts.num_cited - len(facts.cited)
    return named + (Markup("<br>and {} more documents").format(count(more)) if more > 0 else "")


def _versions(facts: Facts) -> Markup:
    if not facts.versions:
        return Markup("none yet: this memory holds tokens alone")
    said = []
    for number, active, covered in facts.versions:
        state = "covers it" if covered else "does not cover it: stale or not made yet"
        said.append(f"version {number}{' (read)' if active else ''} {state}")
    return Markup("<br>").join(said)


def _access(facts: Facts) -> str:
    access = facts.access
    assert access is not None
    if not facts.steps:
        return "no refocus step was recorded in this memory"
    last = ""
    if access.last_expanded_ms:
        last = time.strftime(", last on %d %b %Y, %H:%M:%S UTC", time.gmtime(access.last_expanded_ms / 1000))
    return (
        f"expanded {access.times_expanded:,} times{last}; in {percent(access.residency)} of {facts.steps:,} steps, "
        f"{access.gist_steps:,} times as a gist and {access.raw_steps:,} as tokens"
    )


def _text(facts: Facts, vocabulary: Job[Vocabulary]) -> Markup:
    if not vocabulary.done:
        return Markup('<p class="muted">{} …</p>').format(vocabulary.what or "looking for the vocabulary")
    known = None if vocabulary.failed else vocabulary.result
    before, own, after = (text_of(known, ids) for ids in (facts.before, facts.tokens, facts.after))
    more = facts.span.stop - facts.span.start - len(facts.tokens)
    rest = Markup('<p class="muted">… and {} more tokens</p>').format(count(more)) if more > 0 else Markup("")
    said = plain(own, _MOST_CHARACTERS)
    if facts.node.lod == 0:
        said = Markup("{}<mark>{}</mark>{}").format(plain(before), said, plain(after))
    sorry = Markup('<p class="muted">{}</p>').format(plain(vocabulary.sentence)) if vocabulary.failed else ""
    return Markup('{}<div class="passage">{}</div>{}').format(sorry, said, rest)
