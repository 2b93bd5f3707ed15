"""The whole history on disk: tokens, gists and addresses as a tree of complete nodes."""

from megacontext.tree.encoder import NO_TOKEN, GistEncoder
from megacontext.tree.identity import Identity
from megacontext.tree.lmdb_store import LmdbStore
from megacontext.tree.memory import Memory
from megacontext.tree.store import RamStore, Store

__all__ = ["NO_TOKEN", "GistEncoder", "Identity", "LmdbStore", "Memory", "RamStore", "Store"]
