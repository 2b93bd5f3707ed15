"""Every error that MegaContext raises on purpose.

A message is one sentence for the caller: the rule, the value that came, and a way out. The command line prints
that sentence and exits with code 2; anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations


class MegaContextError(Exception):
    """Root of the hierarchy; catch this to catch them all."""


class ConfigError(MegaContextError):
    """A recipe, an option or an input file breaks a rule."""


class ShapeError(MegaContextError):
    """An array or tensor has a shape that the operation cannot take."""


class UnknownVariantError(ConfigError):
    """A name is not in the registry that was asked."""


class TreeFormatError(MegaContextError):
    """A stored memory is absent, of another format or version, or was made with other parts."""


class CorruptRecordError(TreeFormatError):
    """A stored record does not match its checksum."""


class StorageError(MegaContextError):
    """The disk refused: it is full, failing, or a limit was met. What was acknowledged before still stands."""


class NodeMissingError(MegaContextError):
    """A node was asked for that the tree does not hold."""


class StaleGistError(MegaContextError):
    """A gist of another encoder version was read without asking for it."""


class BudgetError(MegaContextError):
    """A working context would cost more positions than its budget holds."""


class IllegalEditError(MegaContextError):
    """An edit does not apply to the working context it was planned for."""


class CheckpointError(MegaContextError):
    """A checkpoint is absent, damaged, foreign or does not fit its configuration."""


class BackendUnavailableError(MegaContextError):
    """A kernel backend was asked for that this machine cannot run."""
