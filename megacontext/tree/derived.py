"""Files that are computed from a memory's records and kept beside them for speed alone: the folder `derived`.

Whatever lies there can be made again, so losing it costs time and nothing else. But what is made from tokens tells of
tokens: what forgets or removes records takes this folder away first, and the records after it. Only the memory's
writer writes here.

Deliberately ignorant of what the files are: see `megacontext.index`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from megacontext.errors import StorageError
from megacontext.tree.data_file import sync_folder

DERIVED_FOLDER = "derived"


def remove_derived(folder: Path | None) -> None:
    """Take away all that was derived from the memory in `folder`; when it returns, that is durable.

    A memory in RAM (None) has no such files. Raises StorageError if the disk refuses: then what was meant to leave
    no trace must not be said to have left none.
    """
    if folder is None or not (folder / DERIVED_FOLDER).exists():
        return
    try:
        shutil.rmtree(folder / DERIVED_FOLDER)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(
            f"what was derived from a memory must go with its tokens, {folder / DERIVED_FOLDER} cannot be removed "
            f"({error.strerror}); nothing was changed, make the folder writable or remove it by hand"
        ) from error
