"""nanochat's checkpoints and vocabularies, read and written in its own layout. Foreign names stop here."""

from megacontext.models.checkpoint.layout import ATTENTION, base_dir, checkpoint_folder, last_step
from megacontext.models.checkpoint.loading import LoadedCheckpoint, load_checkpoint
from megacontext.models.checkpoint.saving import save_checkpoint
from megacontext.models.checkpoint.vocabulary import check_vocabulary, load_tokenizer, save_tokenizer

__all__ = [
    "ATTENTION",
    "LoadedCheckpoint",
    "base_dir",
    "check_vocabulary",
    "checkpoint_folder",
    "last_step",
    "load_checkpoint",
    "load_tokenizer",
    "save_checkpoint",
    "save_tokenizer",
]
