"""What is looked up in a memory's history by its content: blocks by address, blocks by word.

Both are derived from the memory's records, kept in mapped files beside them, and follow the history as it grows.
"""

from megacontext.index.addresses import AddressIndex
from megacontext.index.postings import WordIndex
from megacontext.index.texts import words

__all__ = ["AddressIndex", "WordIndex", "words"]
