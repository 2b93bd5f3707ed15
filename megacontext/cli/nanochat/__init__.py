"""`megacontext nanochat STAGE`: the vanilla pipeline under nanochat's own names, options and folders.

Each stage is a dataclass whose fields are nanochat's options with nanochat's defaults; `STAGES` names them as nanochat
names its scripts. Options are accepted in both of its spellings, `--max-seq-len 512` and `--max_seq_len=512`. What a
stage reads and writes lies under NANOCHAT_BASE_DIR, so that its programs and these can take turns.
"""

from __future__ import annotations

from dataclasses import make_dataclass
from typing import Annotated, Union

import tyro

from megacontext.cli.chat import Chat
from megacontext.cli.nanochat.base_eval import BaseEval
from megacontext.cli.nanochat.base_train import BaseTrain
from megacontext.cli.nanochat.tok_train import TokTrain
from megacontext.registry import Registry

STAGES: Registry[type] = Registry("stage")
STAGES.register("tok_train")(TokTrain)
STAGES.register("base_train")(BaseTrain)
STAGES.register("base_eval")(BaseEval)
STAGES.register("chat_cli")(Chat)


class _Stages:
    """nanochat's pipeline: train a vocabulary, pretrain, measure, chat."""

    def run(self) -> int:
        return self.stage.run()


# The registry is the one list of stages; the command is made from it.
_STAGE = Union[tuple(Annotated[STAGES.get(name), tyro.conf.subcommand(name)] for name in STAGES.names())]  # noqa: UP007
NanochatStages = tyro.conf.configure(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)(
    make_dataclass(
        "NanochatStages",
        [("stage", _STAGE)],
        bases=(_Stages,),
        frozen=True,
        namespace={"__doc__": _Stages.__doc__},
    )
)
