import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="02 · Text to tree")

with app.setup:
    from dataclasses import dataclass

    import marimo as mo
    import numpy as np
    import polars as pl

    from megacontext.bench.store import disk
    from megacontext.corpus.book import shipped_books
    from megacontext.evals.histories import history_of_books, stored
    from megacontext.runtime.bundle import Bundle, model_folder
    from megacontext.runtime.encoding import BundleEncoder
    from megacontext.runtime.session import FocusConfig
    from megacontext.spans import complete_counts
    from megacontext.tree import Memory
    from megacontext.tree.verification import recompute
    from workbench.notebook import arguments, kept, memory_of, offline, sent, shown
    from workbench.plots import INGEST_PANELS, curves, tree_pyramid
    from workbench.stores.colouring import by_document, by_meaning, document_table
    from workbench.stores.run import RunStore

    AWKWARD = (1, 31, 32, 33, 1023, 1025, 7, 4099)
    """Sizes of pieces: around a block, around a block of blocks, primes."""


@app.class_definition
@dataclass(frozen=True, kw_only=True)
class TreeConfig:
    """What is stored, and how much of it is stored again in pieces."""

    model: str = "tiny"
    books: tuple[str, ...] = ()
    tokens: int = 40_000
    """Of each book, from its beginning."""
    again: int = 40_000
    """Tokens that are stored a second time, piece by piece."""


@app.function
def in_pieces(memory, ids):
    """Append `ids` in pieces of awkward sizes; how many there were."""
    start, number = 0, 0
    while start < len(ids):
        size = AWKWARD[number % len(AWKWARD)]
        memory.append(ids[start : start + size])
        start, number = start + size, number + 1
    return number


@app.function
def unlike(one, other):
    """Nodes that both memories have, and of how many any number of the gist differs."""
    compared, differing = 0, 0
    for lod in range(1, len(complete_counts(other.num_tokens, other.block_size))):
        nodes = np.arange(min(one.count(lod), other.count(lod)))
        differs = (one.gists(lod, nodes) != other.gists(lod, nodes)).any(axis=1)
        compared, differing = compared + len(nodes), differing + int(differs.sum())
    return compared, differing


@app.function
def build(config, run):
    """Store the books in a memory on disk, hold every node against its tokens, store the beginning again."""
    bundle = Bundle.load(model_folder(config.model))
    encoder = BundleEncoder(bundle)
    history = history_of_books(config.books, config.tokens, bundle.tokenizer)
    case, told = stored(history, FocusConfig(), bundle, run)
    with case.session.memory as memory:
        wrong, recomputed = recompute(memory, encoder)
        again = Memory.create(None, encoder.identity(), encoder)
        pieces = in_pieces(again, history.asked.ids[: config.again])
        compared, differing = unlike(memory, again)
        size = memory.block_size
        counts = [memory.count(lod) for lod in range(1, len(complete_counts(memory.num_tokens, size)))]
    run.results(
        {
            "ingest": [told],
            "block_size": size,
            "nodes": counts,
            "vectors_recomputed": recomputed,
            "vectors_wrong": len(wrong),
            "pieces": pieces,
            "nodes_compared": compared,
            "nodes_differing": differing,
            "disk": disk(run.path / "memory" / history.name),
        }
    )


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 02 · Text to tree

    **Question.** What becomes of a text that is kept for ever: how many nodes, how many bytes a token, and does it
    matter in which pieces it came?

    **Claim.** Every 32 tokens get one gist, every 32 gists one more, so all levels together are 1/31 of the tokens and
    the tree is as deep as the logarithm of its length. A token's bytes do not grow with what is stored already. The
    tree depends on the tokens alone: piece by piece or at once, the same numbers, bit for bit.

    **Cost.** CPU, about half a minute at the size below.

    **What would prove us wrong.** One vector that differs from what its tokens give; one node that differs when the
    text came in other pieces; bytes a token that grow along the way.
    """)
    return


@app.cell
def controls():
    default = arguments(dict(books=2, tokens=4000, again=5000), books=6, tokens=40_000, again=40_000)
    form = (
        mo.md("Novels {books} · tokens of each {tokens} · stored again in pieces {again}")
        .batch(
            books=mo.ui.number(1, len(shipped_books()), value=default["books"]),
            tokens=mo.ui.number(2000, 250_000, step=1000, value=default["tokens"]),
            again=mo.ui.number(1100, 250_000, step=100, value=default["again"]),
        )
        .form(submit_button_label="Build the tree")
    )
    form
    return default, form


@app.cell
def building(default, form):
    asked = sent(form, default)
    config = TreeConfig(
        books=tuple(shipped_books()[: asked["books"]]), tokens=asked["tokens"], again=asked["again"]
    )
    with mo.status.spinner("reading, making gists, checking them"):
        store = RunStore(kept(__file__, config, lambda run: build(config, run)))
    found, memory = store.results, memory_of(store.path / "memory" / "books-0")
    return found, memory, store


@app.cell
def levels(found, memory):
    size = found["block_size"]
    counted = pl.DataFrame(
        {
            "level": [f"L{lod}" for lod in range(len(found["nodes"]) + 1)],
            "nodes": [memory.num_tokens, *found["nodes"]],
            "tokens of each": [size**lod for lod in range(len(found["nodes"]) + 1)],
            "entries to cover all": [
                memory.num_tokens if not lod else -(-memory.num_tokens // size**lod)
                for lod in range(len(found["nodes"]) + 1)
            ],
        }
    )
    mo.vstack([mo.md("## The levels"), shown(counted)])
    return


@app.cell
def by_book(memory):
    documents = document_table(memory)
    documents.wait(60)
    books = by_document(documents.result, memory.num_tokens, memory.block_size)
    cells = books.levels.cells(0, memory.num_tokens)
    legend = " · ".join(books.classes.values())
    mo.vstack(
        [
            mo.md(f"""
            ## The pyramid

            Each row a level, coarse above fine; each cell a node over the tokens that it stands for. A colour a book,
            from the left: {legend}. Nodes know no borders: one in the middle of a higher row may hold the end of one
            book and the beginning of the next."""),
            offline(
                tree_pyramid(
                    cells, memory.num_tokens, memory.block_size, books.levels.top,
                    form=books.form, classes=books.classes, what=books.what,
                ).figure
            ),
        ]
    )  # fmt: skip
    return


@app.cell
def by_query(memory):
    query = "Who danced at the ball?"
    found_by = by_meaning(memory, query, "notebook")
    found_by.wait(120)
    matched = found_by.result
    mo.vstack(
        [
            mo.md(f"""
            *{query}* The same tree, by how well each block's address matches that question; a higher node shows the
            best below it. This is the light by which LensNet walks down."""),
            offline(
                tree_pyramid(
                    matched.levels.cells(0, memory.num_tokens), memory.num_tokens, memory.block_size,
                    matched.levels.top, form=matched.form, limits=matched.limits, what=matched.what,
                ).figure
            ),
        ]
    )  # fmt: skip
    return


@app.cell
def bytes_of(found, store):
    tables = pl.DataFrame(
        [
            {
                "table": name,
                "records": table["records"],
                "bytes a token": table["bytes_per_token"],
                "pages over records": table["ratio"],
            }
            for name, table in found["disk"]["tables"].items()
            if table["records"]
        ]
    ).sort("bytes a token", descending=True)
    mo.vstack(
        [
            mo.md("## On disk"),
            offline(*(curves(store.frame("ingest"), panel) for panel in INGEST_PANELS)),
            shown(tables),
        ]
    )
    return


@app.cell
def answer(found, memory, store):
    ingest = store.frame("ingest")
    each = (ingest["store_bytes"] / ingest["tokens_total"]).to_list()
    half = each[len(each) // 2]
    share = sum(found["nodes"]) / memory.num_tokens
    mo.md(f"""
    ## Answer

    {memory.num_tokens:,} tokens became {sum(found["nodes"]):,} gists on {len(found["nodes"])} levels, {share:.4f} a
    token (1/31 is {1 / 31:.4f}), at {found["ingest"][0]["tokens_per_s"]:,.0f} tokens/s and
    **{found["disk"]["bytes_per_token"]:.1f} bytes a token**, {half:.1f} when half of it was stored. All
    {found["vectors_recomputed"]:,} vectors were made again from their tokens, {found["vectors_wrong"]} differed. The
    first tokens came a second time in {found["pieces"]:,} pieces: of {found["nodes_compared"]:,} nodes
    **{found["nodes_differing"]}** differed in any bit. How it is built: the vault's note
    [Store](../obsidian/architecture/Store.md).
    """)
    return half, share


@app.cell
def test_the_tree_is_what_its_tokens_say(found, share):
    assert found["vectors_recomputed"] > 0 and found["vectors_wrong"] == 0
    assert found["nodes_compared"] > 0 and found["nodes_differing"] == 0
    assert share <= 1 / 31
    return


@app.cell
def test_bytes_do_not_grow(found, half):
    # What a file takes at first, before its pages are full, may only make the beginning dearer.
    assert found["disk"]["bytes_per_token"] <= 1.05 * half
    told = {
        "bytes_per_token": round(found["disk"]["bytes_per_token"], 2),
        "differing": found["nodes_differing"],
    }
    print(told)
    return


if __name__ == "__main__":
    app.run()
