"""Where text comes from: files, folders, patterns, standard input, and the rows of parquet tables.

`find_sources` turns what somebody typed into sources, all of them checked; a source streams its text. Deliberately
knows nothing of tokens and memories.
"""

from megacontext.sources.files import read_text
from megacontext.sources.finding import Found, find_sources
from megacontext.sources.patterns import LEFT_OUT_FOLDERS
from megacontext.sources.source import (
    LONGEST_PIECE_CHARACTERS,
    PIECE_CHARACTERS,
    Skipped,
    Source,
    cut_pieces,
)
from megacontext.sources.tables import TEXT_COLUMN

__all__ = [
    "LEFT_OUT_FOLDERS",
    "LONGEST_PIECE_CHARACTERS",
    "PIECE_CHARACTERS",
    "TEXT_COLUMN",
    "Found",
    "Skipped",
    "Source",
    "cut_pieces",
    "find_sources",
    "read_text",
]
