"""A conversation with a base model: turns of text to token ids in the format that the model was taught, and back.

Three formats: nanochat's special tokens, the chat template of a Hugging Face tokenizer, and none, for models that only
ever learnt to go on with a text. In each, what a person wrote stays text: characters that look like a special token
are encoded as the characters they are, so nobody can end a turn or begin one by typing it.

Deliberately knows nothing of where models come from (`bases`), nor of terminals.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from megacontext.errors import ConfigError, MegaContextError
from megacontext.models.base import BaseModel
from megacontext.runtime.generation import check_drawing, generate
from megacontext.runtime.spelling import Spelling
from megacontext.tokenizer import Tokenizer


@dataclass(frozen=True)
class Turn:
    """What one side said."""

    role: Literal["user", "assistant"]
    text: str


class ChatFormat(Protocol):
    """How a conversation looks to a model."""

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        ...

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Ids of the conversation so far, up to where the assistant begins to speak."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer."""
        ...


class SpecialTokenChat:
    """nanochat's: <|bos|>, and each turn between the start and the end token of its side."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset((self._tokenizer.special_id("<|assistant_end|>"), self._tokenizer.bos_id))

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        special = self._tokenizer.special_id
        ids = [self._tokenizer.bos_id]
        for turn in turns:
            text = self._tokenizer.encode(turn.text).tolist()
            ids += [special(f"<|{turn.role}_start|>"), *text, special(f"<|{turn.role}_end|>")]
        return [*ids, special("<|assistant_start|>")]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


class PlainText:
    """For a model of nanochat's kind that was pretrained only: <|bos|>, then the texts, one after the other."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset((self._tokenizer.bos_id,))

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        text = self._tokenizer.encode("".join(turn.text for turn in turns)).tolist()
        return [self._tokenizer.bos_id, *text]

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids)


class TemplateChat:
    """A Hugging Face tokenizer's own chat template; without one, its texts one after the other."""

    def __init__(self, tokenizer: Any, stop_ids: Sequence[int] = ()):
        """`stop_ids` are those of the model, beside the tokenizer's own end of sequence."""
        self._tokenizer = tokenizer
        own = tokenizer.eos_token_id
        self._stop_ids = frozenset((*stop_ids, *(() if own is None else (own,))))

    @property
    def stop_ids(self) -> frozenset[int]:
        return self._stop_ids

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        if not self._tokenizer.chat_template:
            # With the special tokens that the tokenizer itself puts in front.
            text = "".join(turn.text for turn in turns)
            return self._tokenizer(text, split_special_tokens=True)["input_ids"]
        specials = set(self._tokenizer.all_special_tokens)
        specials |= {str(token) for token in self._tokenizer.added_tokens_decoder.values()}
        if not any(token in turn.text for turn in turns for token in specials if token):
            return self._ids(self._rendered([turn.text for turn in turns], turns))
        # The template's own words with its special tokens, the turns' words without any, piece by piece. Only then:
        # a tokenizer may cut a whole text differently at the seams.
        marks = [f"\ue000{number}\ue001" for number in range(len(turns))]
        rest, ids = self._rendered(marks, turns), []
        for mark, turn in zip(marks, turns, strict=True):
            if mark not in rest:
                continue  # a template may leave a turn out
            before, _, rest = rest.partition(mark)
            ids += self._ids(before)
            ids += self._ids(turn.text, split_special_tokens=True)
        return [*ids, *self._ids(rest)]

    def around_user(self) -> tuple[list[int], list[int]]:
        """Ids before and behind what a user says in a first turn; none without a template."""
        if not self._tokenizer.chat_template:
            return [], []
        mark = "\ue000user\ue001"
        before, _, behind = self._rendered([mark], [Turn("user", "")]).partition(mark)
        return self._ids(before), self._ids(behind)

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _rendered(self, texts: Sequence[str], turns: Sequence[Turn]) -> str:
        messages = [{"role": turn.role, "content": text} for turn, text in zip(turns, texts, strict=True)]
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _ids(self, text: str, **how: bool) -> list[int]:
        # The template has written every special token that belongs there.
        return self._tokenizer(text, add_special_tokens=False, **how)["input_ids"] if text else []


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """How answers are drawn. Temperature and top-k as nanochat has them."""

    max_tokens: int = 256
    """Tokens of an answer at most."""
    temperature: float = 0.6
    """0 takes the likeliest token, more is more varied."""
    top_k: int = 50
    """Draw from so many of the likeliest tokens; 0: from all."""
    seed: int = 42
    """Equal seeds, equal answers."""

    def __post_init__(self) -> None:
        check_drawing(self.max_tokens, self.temperature, self.top_k, self.seed)


class Conversation:
    """Turns so far, and answers to new ones. The whole conversation is read again for every answer."""

    def __init__(self, base: BaseModel, form: ChatFormat, config: ChatConfig):
        self.base, self.form, self.config = base, form, config
        self.turns: list[Turn] = []
        self.prompt_tokens = self.answer_tokens = 0
        """Of the last reply."""

    def reply(self, text: str) -> Iterator[str]:
        """Pieces of the answer to `text`, each whole characters, as they are drawn.

        The turns are kept when the answer ends or is left off: then with as much of it as was drawn. Raises
        ConfigError for a text without a word in it, and what `generate` and the model raise; the conversation then
        stays as it was.
        """
        if not text.strip():
            raise ConfigError("a prompt must hold text, got nothing but blanks; say something")
        turns = [*self.turns, Turn("user", text)]
        prompt = self.form.encode(turns)
        tokens = generate(
            self.base,
            prompt,
            max_tokens=self.config.max_tokens,
            temperature=self.config.temperature,
            top_k=self.config.top_k,
            stop_ids=self.form.stop_ids,
            seed=self.config.seed + len(self.turns),
        )
        self.prompt_tokens = len(prompt)
        return self._streamed(tokens, turns)

    def _streamed(self, tokens: Iterator[int], turns: list[Turn]) -> Iterator[str]:
        spelling, readable = Spelling(self.form.decode), True
        try:
            for token in tokens:
                if piece := spelling.take(token):
                    yield piece
            if rest := spelling.rest():
                yield rest
        except MegaContextError:
            readable = False
            raise
        finally:
            if readable:
                self.answer_tokens = len(spelling.ids)
                self.turns = [*turns, Turn("assistant", spelling.text)]
