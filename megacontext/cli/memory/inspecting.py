"""`megacontext memory inspect` and `stats`: what a memory holds, and what of it was read. Nothing is changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from megacontext.cli.answers import answer
from megacontext.cli.memory.materials import MemoryPath
from megacontext.cli.tables import plain_table
from megacontext.tree import LmdbStore, Memory
from megacontext.tree.lmdb_store import writer_of


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
        answer(told, self.json, lambda: _print_description(told))
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

        answer({"steps": steps, "nodes": rows}, self.json, say)
        return 0


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
