"""The whole history on disk: tokens, documents, gists and addresses as a tree of complete nodes."""

from megacontext.tree.appending import Receipt
from megacontext.tree.documents import Citation, Document
from megacontext.tree.encoder import NO_TOKEN, GistEncoder
from megacontext.tree.identity import Identity, Version
from megacontext.tree.lmdb_store import LmdbStore
from megacontext.tree.memory import Memory
from megacontext.tree.store import RamStore, Store

__all__ = [
    "NO_TOKEN",
    "Citation",
    "Document",
    "GistEncoder",
    "Identity",
    "LmdbStore",
    "Memory",
    "RamStore",
    "Receipt",
    "Store",
    "Version",
]
