"""`megacontext chat`: talk to a base model on this machine, once or in a loop."""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from megacontext.errors import ConfigError
from megacontext.runtime.bases import CheckpointChoice, Precision, Source, open_base, place
from megacontext.runtime.chat import ChatConfig, Conversation

_LEAVE = {"quit", "exit"}
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
"""What a model may not send to a terminal: the characters that steer it."""


@dataclass(frozen=True)
class Chat:
    """Talk to a base model: one answer to a prompt, or a conversation without one. Ctrl-C stops an answer."""

    text: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROMPT]")] = None
    """What to say, for one answer; without it, lines are read until Ctrl-D or "quit"."""
    base: str = "nanochat"
    """nanochat (checkpoints in $NANOCHAT_BASE_DIR), smollm2, or the path of a folder: a model in Hugging Face's
    format, or nanochat's checkpoints."""
    source: Annotated[Source | None, tyro.conf.arg(aliases=["-i"])] = None
    """Which phase's checkpoint of nanochat's; default: sft. A base model goes on with the prompt."""
    model_tag: Annotated[str | None, tyro.conf.arg(aliases=["-g"])] = None
    """Which model of nanochat's; default: the deepest."""
    step: Annotated[int | None, tyro.conf.arg(aliases=["-s"])] = None
    """Which step; default: the last."""
    dialect: str | None = None
    """Of the nanochat that wrote the checkpoint, where the checkpoint cannot tell."""
    prompt: Annotated[str | None, tyro.conf.arg(aliases=["-p"])] = None
    """The same as PROMPT."""
    temperature: Annotated[float, tyro.conf.arg(aliases=["-t"])] = ChatConfig.temperature
    """0 takes the likeliest token, more is more varied."""
    top_k: Annotated[int, tyro.conf.arg(aliases=["-k"])] = ChatConfig.top_k
    """Draw from so many of the likeliest tokens; 0: from all."""
    max_tokens: int = ChatConfig.max_tokens
    """Tokens of an answer at most."""
    seed: int = ChatConfig.seed
    """Equal seeds, equal answers."""
    device_type: str = ""
    """cuda, cpu or mps; empty = the best that is there."""
    dtype: Annotated[Precision, tyro.conf.arg(aliases=["-d"])] = "float32"
    """Of weights and arithmetic."""
    json: bool = False
    """Print each answer as one line of JSON, with its length and speed."""

    def run(self) -> int:
        if self.text is not None and self.prompt is not None:
            raise ConfigError("a prompt is given once, as PROMPT or with --prompt, got both; drop one")
        config = ChatConfig(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, seed=self.seed
        )
        chosen = open_base(
            self.base,
            CheckpointChoice(
                source=self.source, model_tag=self.model_tag, step=self.step, dialect=self.dialect
            ),
        )
        place(chosen.base, self.device_type, self.dtype)
        conversation = Conversation(chosen.base, chosen.form, config)
        prompt = self.prompt if self.text is None else self.text
        if prompt is not None:
            self._answer(conversation, chosen.name, prompt)
            return 0
        while (line := _heard()) is not None:
            if line.strip():
                try:
                    self._answer(conversation, chosen.name, line)
                except KeyboardInterrupt:
                    print(" [stopped]", file=sys.stderr)
        return 0

    def _answer(self, conversation: Conversation, name: str, prompt: str) -> None:
        began = time.perf_counter()
        with closing(conversation.reply(prompt)) as pieces:
            for piece in pieces:
                if not self.json:
                    print(piece.translate(_CONTROLS), end="", flush=True)
        seconds = time.perf_counter() - began
        if self.json:
            said: dict[str, Any] = {
                "base": name,
                "prompt": prompt,
                "answer": conversation.turns[-1].text,
                "prompt_tokens": conversation.prompt_tokens,
                "answer_tokens": conversation.answer_tokens,
                "seconds": round(seconds, 3),
            }
            print(json.dumps(said, ensure_ascii=False), flush=True)
        else:
            print(flush=True)


def _heard() -> str | None:
    """The next line that a person says; None where they are done."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        try:
            line = input("> ")
        except EOFError:
            print()
            return None
    elif not (line := sys.stdin.readline()):
        return None
    return None if line.strip().lower() in _LEAVE else line.rstrip("\n")
