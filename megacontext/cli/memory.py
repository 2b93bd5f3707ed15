"""`megacontext memory COMMAND`: everything that is done to a memory on disk, one small command each.

What a command tells goes to standard output, as text or, with `--json`, as JSON; progress goes to standard error. An
interrupt leaves the memory valid, and the same command goes on where it stopped.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from megacontext.cli.tables import plain_table
from megacontext.errors import ConfigError, NodeMissingError
from megacontext.evals.first_light import model_folder
from megacontext.progress import Progress
from megacontext.runtime.bundle import Bundle
from megacontext.runtime.encoding import BundleEncoder
from megacontext.runtime.ingest import Ingested, OnChange, ingest
from megacontext.scoring.search import search_meaning, search_text, search_words
from megacontext.sources import find_sources
from megacontext.tree import Document, Memory, refresh
from megacontext.tree.forgetting import compact, forget_document, forget_span
from megacontext.tree.interchange import export_memory, import_memory
from megacontext.tree.lmdb_store import LmdbStore, writer_of
from megacontext.tree.repair import repair
from megacontext.tree.verification import verify

MemoryPath = Annotated[Path, tyro.conf.Positional]
DAMAGED = 1
"""Exit code of a check that found something."""


@dataclass(frozen=True)
class Ingest:
    """Take texts into a memory, each as a document. Made if it does not exist; given again, it goes on where it was.

    What is there already is passed over; what has changed becomes a new document.
    """

    memory: MemoryPath
    """Folder of a memory, or of one to be made."""
    sources: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Files, folders, globs in quotes, or - for standard input. Of a parquet file, every row of its column `text`."""
    model: str = "tiny"
    """Whose vocabulary and gists: a folder in data/, or the path of one."""
    gists: bool = True
    """Make gists at once; without, `refresh` makes them later."""
    on_change: OnChange = "supersede"
    """What becomes of the document of a source that has changed: it stays readable but is marked (supersede), is
    forgotten (replace), or stays as it is (keep)."""
    name: str = "stdin"
    """Name of the document that standard input becomes."""
    tags: tuple[str, ...] = ()
    """Words to file the documents under."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if not self.sources:
            raise ConfigError("ingesting needs a source; give files, folders, globs or -")
        found = find_sources(self.sources, stdin_name=self.name)
        encoder = _encoder(self.model)
        begun = time.perf_counter()
        done: list[Ingested] = []
        swept = 0
        with self._opened(encoder) as memory:
            with Progress("bytes of text", found.size_bytes) as progress:
                tokens = 0

                def told(text_bytes: int, count: int) -> None:
                    nonlocal tokens
                    tokens += count
                    rate = tokens / (time.perf_counter() - begun)
                    progress.advance(f"{tokens:,} tokens, {rate:,.0f} tokens/s", text_bytes)

                taken = ingest(
                    memory,
                    encoder.tokenizer,
                    found,
                    on_change=self.on_change,
                    filler=_filler(encoder),
                    tags=self.tags,
                    told=told,
                )
                try:
                    done.extend(taken)
                except KeyboardInterrupt:
                    memory.sync()
                    self._say_where(memory)
                    raise
            if self.gists:
                swept = _sweep(memory, encoder)
            num_tokens = memory.num_tokens
        seconds = time.perf_counter() - begun
        added = sum(one.tokens for one in done)
        told_all = {
            "tokens": num_tokens,
            "tokens_added": added,
            "tokens_per_s": added / seconds,
            "blocks_swept": swept,
            "documents": [asdict(one) for one in done],
            "skipped": [asdict(one) for one in found.skipped],
        }

        def say() -> None:
            for one in found.skipped:
                print(f"skipped: {one.name}: {one.why}")
            outcomes = Counter(one.outcome for one in done)
            print(
                ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
                or "nothing to take in"
            )
            print(
                f"{added:,} tokens added in {seconds:.1f} s, {added / seconds:,.0f} tokens/s; {num_tokens:,} in all"
            )

        _tell(told_all, self.json, say)
        return 0

    def _opened(self, encoder: BundleEncoder) -> Memory:
        if not self.memory.exists():
            return Memory.create(self.memory, encoder.identity(), encoder if self.gists else None)
        with Memory.open(self.memory) as memory:
            has_gists = bool(memory.catalogue.versions)
        if self.gists and not has_gists:
            with Memory.open(self.memory, encoder.identity(), writable=True) as memory:
                refresh.add_version(memory, encoder.identity(), encoder)
        return Memory.open(self.memory, encoder.identity(), encoder if self.gists else None, writable=True)

    def _say_where(self, memory: Memory) -> None:
        last = memory.documents.last()
        inside = f" in {last.name}" if last is not None and last.state == "open" else ""
        print(
            f"megacontext: stopped at token {memory.num_tokens:,}{inside}; the same command goes on from there",
            file=sys.stderr,
        )


@dataclass(frozen=True)
class Search:
    """Find places in a memory by words, by meaning, or by exact text, with the document that each comes from."""

    memory: MemoryPath
    """Folder of a memory."""
    query: Annotated[str, tyro.conf.Positional]
    """What to look for."""
    by: Literal["words", "meaning", "text"] = "words"
    """words: BM25; meaning: the addresses that the model gives query and blocks; text: exactly these signs."""
    most: int = 5
    """How many places to show."""
    model: str = "tiny"
    """The model that the memory was made with."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if self.most < 1:
            raise ConfigError(f"--most must be at least 1, got {self.most}; raise it")
        encoder = _encoder(self.model)
        tokenizer = encoder.tokenizer
        with Memory.open(self.memory, encoder.identity(), encoder) as memory:
            with Progress("tokens read", memory.num_tokens) as progress:
                if self.by == "words":
                    hits = search_words(memory, tokenizer, self.query, self.most, progress.set)
                elif self.by == "text":
                    hits = search_text(memory, tokenizer, self.query, self.most, progress.set)
                else:
                    question = encoder.encode_question(tokenizer.encode(self.query))
                    hits = search_meaning(memory, question, self.most, progress.set)
            rows = [
                {
                    **asdict(hit),
                    "cited": [str(citation) for citation in memory.cite(hit.start, hit.stop)],
                    "text": tokenizer.decode(memory.tokens(hit.start, hit.stop)),
                }
                for hit in hits
            ]

        def say() -> None:
            for row in rows:
                cited = "; ".join(row["cited"]) or f"tokens {row['start']:,}-{row['stop']:,}"
                print(f"{row['score']:.3f}  {cited}\n       {' '.join(row['text'].split())}")
            if not rows:
                print("nothing found")

        _tell({"hits": rows}, self.json, say)
        return 0


@dataclass(frozen=True)
class Export:
    """Write a memory as a folder of .ctx files: ids, gists, addresses, and metadata.json."""

    memory: MemoryPath
    """Folder of a memory."""
    folder: Annotated[Path, tyro.conf.Positional]
    """New folder for the files."""
    version: int | None = None
    """Gist version to write; default: the one that is read."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory) as memory, Progress("records", None) as progress:
            chosen = memory if self.version is None else memory.reading(self.version)
            export_memory(chosen, self.folder, progress.set)
        files = {path.name: path.stat().st_size for path in sorted(self.folder.iterdir())}
        _tell(
            {"folder": str(self.folder), "files": files},
            self.json,
            lambda: print(f"{sum(files.values()):,} bytes in {len(files)} files in {self.folder}"),
        )
        return 0


@dataclass(frozen=True)
class Import:
    """Make a memory of a folder of .ctx files."""

    folder: Annotated[Path, tyro.conf.Positional]
    """What `export` wrote."""
    memory: MemoryPath
    """Folder for the new memory."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Progress("records", None) as progress:
            import_memory(self.folder, self.memory, progress.set)
        with Memory.open(self.memory) as memory:
            told = {"tokens": memory.num_tokens, "documents": len(memory.documents)}
        _tell(
            told,
            self.json,
            lambda: print(f"{told['tokens']:,} tokens in {told['documents']:,} documents in {self.memory}"),
        )
        return 0


@dataclass(frozen=True)
class Inspect:
    """What a memory holds: length, levels, gist versions, documents, and how full its pages are."""

    memory: MemoryPath
    """Folder of a memory."""
    documents: bool = False
    """List the documents."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory) as memory:
            told = described(memory)
            if self.documents:
                told["document_list"] = [asdict(document) for document in memory.documents]
        told["writer"] = writer_of(self.memory)
        _tell(told, self.json, lambda: _print_description(told))
        return 0


@dataclass(frozen=True)
class Verify:
    """Read all of a memory and say what is damaged, and where. Exit code 1 if something is."""

    memory: MemoryPath
    """Folder of a memory."""
    recompute: bool = False
    """Also make every vector again with the model, and compare."""
    model: str = "tiny"
    """The model for --recompute: a folder in data/, or the path of one."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        encoder = _encoder(self.model) if self.recompute else None
        with Progress("records read", None) as progress:
            found = verify(
                self.memory,
                encoder.identity() if encoder else None,
                encoder,
                lambda count: progress.set(count),
            )
        told = {**asdict(found), "ok": found.ok}

        def say() -> None:
            for damage in found.damages:
                where = f"tokens {damage.span.start:,}-{damage.span.stop:,}: " if damage.span else ""
                print(f"{damage.kind}: {where}{damage.what}")
            compared = f", {found.recomputed:,} vectors made again" if found.recomputed else ""
            what = (
                "sound"
                if found.ok
                else f"{len(found.damages)} damages; `megacontext memory repair` mends them"
            )
            print(f"{found.records:,} records of {found.num_tokens:,} tokens read{compared}: {what}")

        _tell(told, self.json, say)
        return 0 if found.ok else DAMAGED


@dataclass(frozen=True)
class Repair:
    """Make a damaged memory whole from every record that is left, and say which tokens are lost."""

    memory: MemoryPath
    """Folder of a memory."""
    model: str = "tiny"
    """The model that it was made with: makes lost gists again."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        encoder = _encoder(self.model)
        done = repair(self.memory, _filler(encoder), encoder.identity())
        swept = _sweep_at(self.memory, encoder)
        told = {**asdict(done), "kept_aside": str(done.kept_aside), "blocks_swept": swept}

        def say() -> None:
            for span in done.lost:
                print(f"lost: tokens {span.start:,}-{span.stop:,}")
            for number in done.lost_documents:
                print(f"lost: the name of document {number}")
            lost = sum(span.stop - span.start for span in done.lost)
            print(
                f"{done.num_tokens - lost:,} of {done.num_tokens:,} tokens are whole, gists of {swept:,} blocks were "
                f"made again; the damaged file is kept as {done.kept_aside}"
            )

        _tell(told, self.json, say)
        return 0


@dataclass(frozen=True)
class Refresh:
    """Make gists with a model: those that are missing, or a whole new version beside the old one.

    A sweep that is interrupted goes on where it stopped when the command is given again.
    """

    memory: MemoryPath
    """Folder of a memory."""
    model: str = "tiny"
    """A folder in data/, or the path of one."""
    mode: Literal["eager", "coexist", "lazy"] = "eager"
    """eager: make all gists, then read them by default; coexist: make all, but go on reading the old ones by default;
    lazy: only note the version, its gists are made when they are read."""
    drop_old: bool = False
    """Remove the other versions at the end."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if self.drop_old and self.mode != "eager":
            raise ConfigError(f"--drop-old needs --mode eager, got {self.mode}; the old gists are still read")
        encoder = _encoder(self.model)
        with Memory.open(self.memory, writable=True) as memory:
            version = refresh.add_version(memory, encoder.identity(), encoder)
        swept = 0 if self.mode == "lazy" else _sweep_at(self.memory, encoder)
        dropped: list[int] = []
        with Memory.open(self.memory, writable=True) as memory:
            if self.mode == "eager":
                refresh.switch(memory, version.number)
            if self.drop_old:
                dropped = [one.number for one in memory.catalogue.versions if one.number != version.number]
                for number in dropped:
                    refresh.drop_version(memory, number)
            active = memory.catalogue.active
        told = {"version": version.number, "active": active, "blocks_swept": swept, "dropped": dropped}
        _tell(
            told,
            self.json,
            lambda: print(
                f"version {version.number}: gists of {swept:,} blocks made; version {active} is read by default"
            ),
        )
        return 0


@dataclass(frozen=True)
class Forget:
    """Take a document, or a span of tokens, out of a memory. `compact` then takes it out of the file."""

    memory: MemoryPath
    """Folder of a memory."""
    document: str | None = None
    """Name or number of the document."""
    tokens: tuple[int, int] | None = None
    """First token and one past the last."""
    model: str = "tiny"
    """The model that the memory was made with: makes the gists around it again."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if (self.document is None) == (self.tokens is None):
            raise ConfigError("forgetting needs either --document or --tokens; give one of them")
        encoder = _encoder(self.model)
        with Memory.open(self.memory, encoder.identity(), encoder, writable=True) as memory:
            if self.document is not None:
                document = _document(memory, self.document)
                forget_document(memory, document.number, _filler(encoder))
                span = document.start, document.stop
            else:
                assert self.tokens is not None
                forget_span(memory, *self.tokens, _filler(encoder))
                span = self.tokens
            swept = _sweep(memory, encoder)
        _tell(
            {"start": span[0], "stop": span[1], "blocks_swept": swept},
            self.json,
            lambda: print(
                f"tokens {span[0]:,}-{span[1]:,} are forgotten; `megacontext memory compact {self.memory}` takes "
                "their last bytes out of the file"
            ),
        )
        return 0


@dataclass(frozen=True)
class Compact:
    """Write the file of a memory anew, without what was deleted or forgotten."""

    memory: MemoryPath
    """Folder of a memory."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory, writable=True) as memory, Progress("records", None) as progress:
            before, after = compact(memory, progress.set)
        _tell(
            {"bytes_before": before, "bytes_after": after},
            self.json,
            lambda: print(f"{before:,} bytes before, {after:,} now"),
        )
        return 0


@dataclass(frozen=True)
class Stats:
    """Which nodes were unfolded and read most."""

    memory: MemoryPath
    """Folder of a memory."""
    most: int = 20
    """How many nodes to show."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        with Memory.open(self.memory) as memory:
            nodes = sorted(memory.access, key=lambda node: (-node.times_expanded, -node.residency))[
                : self.most
            ]
            steps, size = memory.access.steps, memory.block_size
        rows = [
            {**asdict(node), "start": node.index * size**node.lod, "stop": (node.index + 1) * size**node.lod}
            for node in nodes
        ]

        def say() -> None:
            table = plain_table("node", "tokens", "unfolded", "as gist", "as tokens", "share of steps")
            for row in rows:
                table.add_row(
                    f"LOD{row['lod']} {row['index']:,}",
                    f"{row['start']:,}-{row['stop']:,}",
                    f"{row['times_expanded']:,}",
                    f"{row['gist_steps']:,}",
                    f"{row['raw_steps']:,}",
                    f"{row['residency']:.1%}",
                )
            Console().print(table)
            print(f"over {steps:,} recorded refocus steps")

        _tell({"steps": steps, "nodes": rows}, self.json, say)
        return 0


@tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
@dataclass(frozen=True)
class MemoryCommands:
    """Care for a memory on disk: fill, look, check, mend, refresh, forget."""

    command: (
        Annotated[Ingest, tyro.conf.subcommand("ingest")]
        | Annotated[Inspect, tyro.conf.subcommand("inspect")]
        | Annotated[Search, tyro.conf.subcommand("search")]
        | Annotated[Verify, tyro.conf.subcommand("verify")]
        | Annotated[Repair, tyro.conf.subcommand("repair")]
        | Annotated[Refresh, tyro.conf.subcommand("refresh")]
        | Annotated[Export, tyro.conf.subcommand("export")]
        | Annotated[Import, tyro.conf.subcommand("import")]
        | Annotated[Forget, tyro.conf.subcommand("forget")]
        | Annotated[Compact, tyro.conf.subcommand("compact")]
        | Annotated[Stats, tyro.conf.subcommand("stats")]
    )

    def run(self) -> int:
        return self.command.run()


def described(memory: Memory) -> dict[str, Any]:
    """What `inspect` tells, as JSON would hold it."""
    end, catalogue = memory.history.state()
    size = memory.block_size
    num_blocks = end.num_tokens // size
    counts = [end.num_tokens]
    while counts[-1] >= size:
        counts.append(counts[-1] // size)
    versions = [
        {
            "number": version.number,
            "active": version.number == catalogue.active,
            "encoder": version.encoder,
            "embedding": version.embedding,
            "gist_width": version.gist_width,
            "address_width": version.address_width,
            "records_per_gist": version.gist_layout.parts,
            "blocks_missing": sum(stop - first for first, stop in version.missing(num_blocks)),
        }
        for version in catalogue.versions
    ]
    told: dict[str, Any] = {
        "tokens": end.num_tokens,
        "tokenizer": catalogue.tokenizer,
        "block_size": size,
        "nodes": {f"LOD{lod}": count for lod, count in enumerate(counts)},
        "documents": end.num_documents,
        "forgotten_tokens": sum(stop - start for start, stop in catalogue.forgotten),
        "lost_tokens": sum(stop - start for start, stop in catalogue.lost),
        "versions": versions,
        "bytes": memory.store_bytes,
    }
    if isinstance(memory.store, LmdbStore):
        told["tables"] = memory.store.table_pages()
    return told


def _print_description(told: dict[str, Any]) -> None:
    per_token = f", {told['bytes'] / told['tokens']:.2f} a token" if told["tokens"] else ""
    print(f"{told['tokens']:,} tokens in {told['documents']:,} documents; {told['bytes']:,} bytes{per_token}")
    print(f"blocks of {told['block_size']}, tokenizer {told['tokenizer']}")
    if told["forgotten_tokens"] or told["lost_tokens"]:
        print(f"forgotten: {told['forgotten_tokens']:,} tokens; lost: {told['lost_tokens']:,}")
    if told["writer"]:
        print(f"being written by process {told['writer']}")
    print("nodes: " + ", ".join(f"{lod} {count:,}" for lod, count in told["nodes"].items()))
    console = Console()
    versions = plain_table("version", "encoder", "width", "address", "blocks missing")
    for version in told["versions"]:
        name = f"{version['number']}{' (read)' if version['active'] else ''}"
        versions.add_row(
            name,
            version["encoder"],
            str(version["gist_width"]),
            str(version["address_width"]),
            f"{version['blocks_missing']:,}",
        )
    console.print(versions)
    tables = plain_table("table", "records", "pages", "bytes")
    for name, pages in told.get("tables", {}).items():
        count = pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]
        tables.add_row(name, f"{pages['entries']:,}", f"{count:,}", f"{count * pages['psize']:,}")
    console.print(tables)
    if "document_list" in told:
        listed = plain_table("document", "name", "state", "tokens", "type")
        for document in told["document_list"]:
            listed.add_row(
                str(document["number"]),
                document["name"],
                document["state"],
                f"{document['start']:,}-{document['stop']:,}",
                document["media_type"],
            )
        console.print(listed)


def _encoder(model: str) -> BundleEncoder:
    return BundleEncoder(Bundle.load(model_folder(model)))


def _filler(encoder: BundleEncoder) -> int:
    """The id that stands where tokens were taken out: a line's end, which says as little as any."""
    (newline,) = encoder.tokenizer.encode("\n").tolist()
    return newline


def _sweep(memory: Memory, encoder: BundleEncoder) -> int:
    """Make what the encoder's version lacks, with a bar. Returns of how many blocks."""
    version = memory.version
    lacking = sum(stop - first for first, stop in version.missing(memory.num_blocks))
    with Progress("blocks into gists", lacking) as progress:
        return refresh.sweep(memory, version.number, encoder, lambda done, _: progress.set(done))


def _sweep_at(path: Path, encoder: BundleEncoder) -> int:
    """The same for a memory that is not open."""
    with Memory.open(path, encoder.identity(), encoder, writable=True) as memory:
        return _sweep(memory, encoder)


def _document(memory: Memory, name_or_number: str) -> Document:
    """The newest document of that name, or of that number. Raises NodeMissingError."""
    named = memory.documents.named(name_or_number)
    if named is not None:
        return named
    if name_or_number.isascii() and name_or_number.isdigit():
        return memory.documents[int(name_or_number)]
    raise NodeMissingError(
        f"a document must be in the memory, {name_or_number!r} is not; list them with "
        "`megacontext memory inspect MEMORY --documents`"
    )


def _tell(told: dict[str, Any], as_json: bool, say: Callable[[], None]) -> None:
    if as_json:
        print(json.dumps(told, indent=2, default=_plain))
    else:
        say()


def _plain(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form")
