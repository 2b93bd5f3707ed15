"""Where a checkout of nanochat has drifted from the contract that we keep, read from its text alone.

    python tools/nanochat_audit.py CHECKOUT [--json]

Nothing of the checkout is run or imported: its files are parsed, and only constants and plain arithmetic on them are
worked out. Each file is held against the generation of nanochat that fits it best, so that a checkout of any age that
we know is free of drift. Ours comes from our own code (dialects, config and keys from megacontext.models, tokens from
megacontext.tokenizer, the column from megacontext.sources); what none of it holds yet stands in the tables below.

Exit code 0: all is the same. 1: something is not, or could not be read. 2: no checkout.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.text import Text

from megacontext.cli.tables import plain_table
from megacontext.models.dialect import DIALECTS, Dialect
from megacontext.models.gpt import GPT, GPTConfig
from megacontext.sources import TEXT_COLUMN
from megacontext.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN

ABSENT = object()
"""In a table: this generation has none."""


class Per(NamedTuple):
    """What changed between the first and the latest generation."""

    classic: Any
    current: Any


OPTIONS: dict[str, dict[str, Any]] = {
    "scripts/base_train.py": {
        "--run": "dummy",
        "--device-type": "",
        "--fp8": Per(ABSENT, False),
        "--fp8-recipe": Per(ABSENT, "tensorwise"),
        "--depth": 20,
        "--aspect-ratio": Per(ABSENT, 64),
        "--head-dim": Per(ABSENT, 128),
        "--max-seq-len": 2048,
        "--window-pattern": Per(ABSENT, "SSSL"),
        "--num-iterations": -1,
        "--target-flops": -1.0,
        "--target-param-data-ratio": Per(20, 12),
        "--device-batch-size": 32,
        "--total-batch-size": Per(524_288, -1),
        "--embedding-lr": Per(0.2, 0.3),
        "--unembedding-lr": Per(0.004, 0.008),
        "--weight-decay": Per(0.0, 0.28),
        "--matrix-lr": 0.02,
        "--scalar-lr": Per(ABSENT, 0.5),
        "--grad-clip": Per(1.0, ABSENT),
        "--warmup-ratio": Per(0.0, ABSENT),
        "--warmup-steps": Per(ABSENT, 40),
        "--warmdown-ratio": Per(0.2, 0.65),
        "--final-lr-frac": Per(0.0, 0.05),
        "--resume-from-step": -1,
        "--eval-every": 250,
        "--eval-tokens": Per(20 * 524_288, 80 * 524_288),
        "--core-metric-every": 2000,
        "--core-metric-max-per-task": 500,
        "--sample-every": 2000,
        "--save-every": -1,
        "--model-tag": Per("", None),
    },
    "scripts/chat_cli.py": {
        "-i --source": "sft",
        "-g --model-tag": None,
        "-s --step": None,
        "-p --prompt": "",
        "-t --temperature": 0.6,
        "-k --top-k": 50,
        "--device-type": "",
        "-d --dtype": Per("bfloat16", ABSENT),
    },
    "scripts/tok_train.py": {
        "--max-chars": Per(10_000_000_000, 2_000_000_000),
        "--doc-cap": 10_000,
        "--vocab-size": Per(65_536, 32_768),
    },
}
"""Options and their defaults, hyphens for underscores; the spellings of one option together."""

FILES: dict[str, dict[str, Any]] = {
    "nanochat/checkpoint_manager.py": {
        "file model": "model_%06d.pt",
        "file meta": "meta_%06d.json",
        "file optim": Per("optim_%06d.pt", "optim_%06d_rank%d.pt"),
        "folder base": "base_checkpoints",
        "folder mid": Per("mid_checkpoints", ABSENT),
        "folder sft": "chatsft_checkpoints",
        "folder rl": "chatrl_checkpoints",
    },
    "nanochat/dataset.py": {"folder": Per("base_data", "base_data_climbmix"), "column": TEXT_COLUMN},
    "nanochat/dataloader.py": {"column": Per(ABSENT, TEXT_COLUMN)},
}
"""Names of files, folders and columns."""

SHAPE = {
    "sequence_len": Per(1024, 2048),
    "vocab_size": Per(50_304, 32_768),
    "window_pattern": Per("L", "SSSL"),
}
"""Upstream's defaults of a model's shape where they changed, or are not those of our GPTConfig."""
LENGTHS = (1000, 2048, 4096)
"""Sequence lengths at which window rules are compared."""

LEAVES = {
    "Parameter": [""],
    "Embedding": [".weight"],
    "RMSNorm": [".weight"],
    "LayerNorm": [".weight", ".bias"],
}
HOLDERS = ("ModuleDict", "ModuleList", "Sequential")
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
LARGEST, LARGEST_POWER, PATIENCE, LARGEST_FILE_BYTES = 1e30, 64, 50_000, 1 << 22
"""Bounds on what a foreign text may have us work out."""


class Unreadable(Exception):
    """Why something cannot be read off the text."""


@dataclass(frozen=True)
class Row:
    """One part of the contract on both sides, as text; None where a side lacks it."""

    file: str
    what: str
    ours: str | None
    theirs: str | None
    verdict: str


# Reading


def name_of(node: ast.AST) -> str:
    """The last part of a dotted name, or of the name of what is called; empty for anything else."""
    node = node.func if isinstance(node, ast.Call) else node
    return getattr(node, "attr", getattr(node, "id", ""))


def text_of(node: ast.AST | None) -> str:
    """The string that a literal is; empty for anything else."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def each(kind: Any, inside: ast.AST) -> list[Any]:
    """All nodes of a kind, in the order of the text."""
    return sorted((node for node in ast.walk(inside) if isinstance(node, kind)), key=lambda node: node.lineno)


def mentions(node: ast.AST, name: str) -> bool:
    return any(name_of(part) == name for part in ast.walk(node))


def assignments(inside: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value of each assignment; `a, b = c, d` counts as two, `a *= b` as `a = a * b`."""
    for node in each((ast.Assign, ast.AnnAssign, ast.AugAssign), inside):
        value = node.value
        if isinstance(node, ast.AugAssign):
            value = ast.BinOp(node.target, node.op, value)
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                yield from zip(target.elts, value.elts, strict=False)
            elif value is not None:
                yield target, value


def defaults_of(function: ast.FunctionDef) -> dict[str, Any]:
    """Parameters with a default other than None."""
    given = function.args
    pairs = [*zip(reversed([*given.posonlyargs, *given.args]), reversed(given.defaults), strict=False)]
    pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return {name.arg: node for name, node in pairs if getattr(node, "value", node) is not None}


class Module:
    """One file, parsed, and what its names stand for. Raises Unreadable."""

    def __init__(self, path: Path):
        self.tree = _parsed(path)
        self.classes = {node.name: node for node in each(ast.ClassDef, self.tree)}
        self.names: dict[str, list[ast.expr]] = {}
        for target, value in assignments(self.tree):
            if isinstance(target, ast.Name | ast.Attribute):
                self.names.setdefault(name_of(target), []).append(value)
        self._patience = PATIENCE

    def spend(self) -> None:
        """Counts a step of working something out, since names may stand for one another without end."""
        self._patience -= 1
        if self._patience < 0:
            raise Unreadable("too much to work out")

    def value(self, node: Any, given: dict[str, Any]) -> Any:
        """What an expression of constants comes to; `given` goes before the file's names. Raises Unreadable."""
        self.spend()
        name = name_of(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str | None):
            return node.value
        if isinstance(node, ast.Constant):
            return _bounded(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -_bounded(self.value(node.operand, given))
        if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            left, right = (_bounded(self.value(side, given)) for side in (node.left, node.right))
            if isinstance(node.op, ast.Pow) and abs(right) > LARGEST_POWER:
                raise Unreadable("a power too large")
            try:
                return _bounded(ARITHMETIC[type(node.op)](left, right))
            except ArithmeticError as problem:
                raise Unreadable(str(problem)) from None
        if name in given:
            return self.value(given[name], given) if isinstance(given[name], ast.AST) else given[name]
        if name in self.names:
            return self.agreed(self.names[name], given)
        raise Unreadable(ast.unparse(node))

    def agreed(self, nodes: Iterable[ast.expr], given: dict[str, Any]) -> Any:
        """The one value that all of them come to. Raises Unreadable if they differ."""
        values = list(dict.fromkeys(self.value(node, given) for node in nodes))
        if len(values) > 1:
            raise Unreadable(" or ".join(map(repr, values)))
        return values[0]

    def fact(self, *nodes: ast.expr, **given: Any) -> Any:
        """The same; what cannot be read is returned as the reason."""
        try:
            return self.agreed(nodes, given)
        except Unreadable as problem:
            return problem
        except RecursionError:
            return Unreadable("nested too deeply")


def _parsed(path: Path) -> ast.Module:
    try:
        if not path.is_file() or path.stat().st_size > LARGEST_FILE_BYTES:
            raise Unreadable(f"no file of up to {LARGEST_FILE_BYTES:,} bytes")
        with warnings.catch_warnings(action="ignore"):  # those of its strings' escapes
            return ast.parse(path.read_bytes().decode("utf-8-sig"))
    except OSError as problem:
        raise Unreadable(str(problem.strerror)) from None
    except UnicodeDecodeError as problem:
        raise Unreadable(f"no UTF-8 at byte {problem.start:,}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        raise Unreadable(f"no Python at line {getattr(problem, 'lineno', None) or '?'}") from None


def _bounded(value: Any) -> Any:
    """A number, or a truth, that is not too large. Raises Unreadable."""
    if not isinstance(value, int | float) or not abs(value) < LARGEST:
        raise Unreadable("no number" if not isinstance(value, int | float) else "a number too large")
    return value


# Theirs


def model_facts(module: Module) -> dict[str, Any]:
    """Config, keys and constants of nanochat/gpt.py."""
    facts: dict[str, Any] = {}
    for node in module.classes["GPTConfig"].body if "GPTConfig" in module.classes else ():
        if isinstance(node, ast.AnnAssign):
            facts[f"config {name_of(node.target)}"] = module.fact(node.value) if node.value else "required"
    try:
        facts |= {f"stores {key}": True for key in sorted(class_keys(module, "GPT", ()))}
    except (Unreadable, RecursionError) as problem:
        facts["stored keys"] = Unreadable(str(problem))
    return facts | factor_facts(module) | gate_facts(module) | window_facts(module) | default_facts(module)


def class_keys(module: Module, name: str, holders: tuple[str, ...]) -> Iterator[str]:
    """State-dict keys of a class of the file, as its __init__ assigns them; `*` stands for a number."""
    if name in holders:
        raise Unreadable(f"{name} holds itself")
    for function in each(ast.FunctionDef, module.classes[name]) if name in module.classes else ():
        if function.name == "__init__":
            for target, value in assignments(function):
                if isinstance(target, ast.Attribute) and name_of(target.value) == "self":
                    yield from (target.attr + key for key in value_keys(module, value, (*holders, name)))


def value_keys(module: Module, value: ast.AST, holders: tuple[str, ...]) -> Iterator[str]:
    """What the parameters in an expression are called below the name that it is given."""
    module.spend()
    if isinstance(value, ast.IfExp):
        yield from value_keys(module, value.body, holders)
        yield from value_keys(module, value.orelse, holders)
    elif isinstance(value, ast.ListComp | ast.GeneratorExp | ast.DictComp):
        part = value.value if isinstance(value, ast.DictComp) else value.elt
        yield from (f".*{key}" for key in value_keys(module, part, holders))
    elif isinstance(value, ast.Dict):
        for label, part in zip(value.keys, value.values, strict=True):
            yield from (f".{text_of(label) or '*'}{key}" for key in value_keys(module, part, holders))
    elif isinstance(value, ast.Call) and name_of(value) in HOLDERS:
        for part in value.args:
            yield from value_keys(module, part, holders)
    elif isinstance(value, ast.Call) and name_of(value).endswith("Linear"):
        words = {word.arg: word.value for word in value.keywords}
        yield from [".weight"] if getattr(words.get("bias"), "value", True) is False else [".weight", ".bias"]
    elif isinstance(value, ast.Call):
        yield from LEAVES.get(name_of(value), ())
        yield from (f".{key}" for key in class_keys(module, name_of(value), holders))


def factor_facts(module: Module) -> dict[str, Any]:
    """Numbers that something is multiplied with: the cap of logits, the scales of gates, queries and keys."""
    found: dict[str, list[ast.expr]] = {}
    for node in each(ast.BinOp, module.tree):
        for factor, other in ((node.left, node.right), (node.right, node.left)):
            if isinstance(node.op, ast.Mult) and name_of(other) == "tanh":
                found.setdefault("softcap", []).append(factor)
            if isinstance(node.op, ast.Mult) and name_of(other) == "sigmoid" and mentions(other, "ve_gate"):
                found.setdefault("scale of ve_gate", []).append(factor)
    for target, value in assignments(module.tree):
        name, is_product = name_of(target), isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult)
        for factor, other in ((value.left, value.right), (value.right, value.left)) if is_product else ():
            if name in ("q", "k") and mentions(other, name) and not mentions(factor, name):
                found.setdefault(f"scale of {name}", []).append(factor)
    facts = {what: module.fact(*factors) for what, factors in found.items()}
    return {"scale of q": 1.0, "scale of k": 1.0} | facts


def gate_facts(module: Module) -> dict[str, Any]:
    """How many channels the gates read."""
    facts = {}
    for target, value in assignments(module.tree):
        layers = [call for call in each(ast.Call, value) if name_of(call).endswith("Linear") and call.args]
        if name_of(target).endswith("_gate") and layers:
            facts[f"channels of {name_of(target)}"] = module.fact(layers[0].args[0])
    return facts


def window_facts(module: Module) -> dict[str, Any]:
    """How far back the letters of the window pattern see, at several sequence lengths."""
    facts: dict[str, Any] = {}
    for node in each(ast.Dict, module.tree):
        windows = {text_of(key): value for key, value in zip(node.keys, node.values, strict=True)}
        for letter, value in windows.items() if windows.keys() == {"S", "L"} else ():
            back = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else value
            for length in LENGTHS:
                facts[f"window {letter} of {length}"] = module.fact(back, sequence_len=length)
    return facts


def default_facts(module: Module) -> dict[str, Any]:
    """Constants that are defaults of functions: the rotary base and the padding of the vocabulary."""
    facts: dict[str, Any] = {"rows are a multiple of": 1}
    for function in each(ast.FunctionDef, module.tree):
        defaults = defaults_of(function)
        powers = [node.left for node in each(ast.BinOp, function) if isinstance(node.op, ast.Pow)]
        if "rotary" in function.name and powers:
            facts["rotary base"] = module.fact(*powers, **defaults)
        if function.name == "__init__":
            padding = [node for name, node in defaults.items() if "pad" in name]
            facts |= {"rows are a multiple of": module.fact(*padding)} if padding else {}
    return facts


def option_facts(module: Module) -> dict[str, Any]:
    """Defaults of a script's options: argparse's, or the variables above nanochat's configurator."""
    facts: dict[str, Any] = {}
    for call in each(ast.Call, module.tree):
        words = {word.arg: word.value for word in call.keywords}
        switch = {"store_true": False, "store_false": True}.get(text_of(words.get("action")))
        default = module.fact(words["default"]) if "default" in words else switch
        for flag in filter(None, map(text_of, call.args if name_of(call) == "add_argument" else ())):
            facts[flag.replace("_", "-")] = default
        if name_of(call) == "exec" and any("configurator" in text_of(part) for part in ast.walk(call)):
            settings = [node for node in module.tree.body if node.lineno < call.lineno]
            for target, value in assignments(ast.Module(settings, [])):
                if isinstance(target, ast.Name) and not isinstance(value, ast.ListComp):
                    facts[f"--{target.id.replace('_', '-')}"] = module.fact(value)
    return facts


def tokenizer_facts(module: Module) -> dict[str, Any]:
    """Special tokens, one by one because their order gives their ids, and the split pattern."""
    facts: dict[str, Any] = {}
    for target, value in assignments(module.tree):
        if name_of(target) == "SPLIT_PATTERN":
            facts["split pattern"] = module.fact(value)
        if name_of(target) == "SPECIAL_TOKENS":
            tokens = getattr(value, "elts", [value])
            facts |= {f"special token {place}": module.fact(token) for place, token in enumerate(tokens)}
    return facts


def checkpoint_facts(module: Module) -> dict[str, Any]:
    """Names of checkpoint files, as printf patterns, and of the folders that hold them."""
    facts: dict[str, Any] = {}
    for node in each(ast.JoinedStr, module.tree):
        pattern = "".join(text_of(part) or f"%{_format_of(part)}" for part in node.values)
        what = f"file {pattern.split('_')[0]}"
        if pattern.endswith((".pt", ".json")):
            facts[what] = pattern if facts.get(what, pattern) == pattern else f"{facts[what]} or {pattern}"
    for node in each(ast.Dict, module.tree):
        for stage, folder in zip(node.keys, node.values, strict=True):
            if text_of(folder).endswith("_checkpoints"):
                facts[f"folder {text_of(stage)}"] = text_of(folder)
    return facts


def _format_of(part: Any) -> str:
    return "".join(map(text_of, part.format_spec.values)) if getattr(part, "format_spec", None) else "d"


def shard_facts(module: Module) -> dict[str, Any]:
    """Which column of the shards is read, and the folder that they lie in."""
    calls = [call for call in each(ast.Call, module.tree) if name_of(call) == "column"]
    columns = [call.args[0] for call in calls if call.args]
    facts = {"column": module.fact(*columns)} if columns else {}
    for target, value in assignments(module.tree):
        if name_of(target) == "DATA_DIR":
            facts["folder"] = module.fact(value.args[-1] if getattr(value, "args", None) else value)
    return facts


READERS: dict[str, Callable[[Module], dict[str, Any]]] = {
    "nanochat/gpt.py": model_facts,
    "nanochat/tokenizer.py": tokenizer_facts,
    "nanochat/checkpoint_manager.py": checkpoint_facts,
    "nanochat/dataset.py": shard_facts,
    "nanochat/dataloader.py": shard_facts,
} | dict.fromkeys(OPTIONS, option_facts)


# Ours


def contracts(file: str) -> dict[str, dict[str, Any]]:
    """What a file may hold, by dialect or generation, the oldest first."""
    if file == "nanochat/gpt.py":
        return {
            f"{name}, {defaults} defaults": model_contract(DIALECTS.get(name), defaults)
            for name, defaults in product(DIALECTS.names(), Per._fields)
        }
    if file == "nanochat/tokenizer.py":
        tokens = {f"special token {place}": token for place, token in enumerate(SPECIAL_TOKENS)}
        return {"all": {**tokens, "split pattern": SPLIT_PATTERN}}
    found: dict[str, dict[str, Any]] = {generation: {} for generation in Per._fields}
    for (names, value), generation in product((OPTIONS | FILES)[file].items(), Per._fields):
        value = getattr(value, generation) if isinstance(value, Per) else value
        if value is not ABSENT:
            found[generation] |= dict.fromkeys(names.split() if names.startswith("-") else [names], value)
    return found


def model_contract(dialect: Dialect, defaults: str) -> dict[str, Any]:
    """What nanochat/gpt.py holds in one of our dialects; keys and channels are those of a model of ours."""
    facts: dict[str, Any] = {}
    for field in fields(GPTConfig):
        if field.name != "dialect" and (field.name != "window_pattern" or dialect.short_window):
            default = SHAPE.get(field.name, Per(field.default, field.default))
            facts[f"config {field.name}"] = getattr(default, defaults)
    with torch.device("meta"):
        state = GPT(GPTConfig(dialect=dialect.name, n_layer=2, n_head=2, n_kv_head=1, n_embd=64)).state_dict()
    for key, tensor in state.items():
        parts = ["*" if part.isdigit() else part for part in key.split(".")]
        facts[f"stores {'.'.join(parts)}"] = True
        if parts[-2:-1] and parts[-2].endswith("_gate"):
            facts[f"channels of {parts[-2]}"] = tensor.shape[1]
    facts |= {"softcap": dialect.softcap, "rotary base": dialect.rope_base}
    facts |= {"scale of q": dialect.qk_scale, "scale of k": dialect.qk_scale}
    facts |= {"scale of ve_gate": dialect.value_gate_scale} if dialect.value_gate_channels else {}
    facts["rows are a multiple of"] = dialect.vocab_multiple
    for length in LENGTHS if dialect.short_window else ():
        facts[f"window L of {length}"] = length
        facts[f"window S of {length}"] = dialect.short_window.entries(length)
    return facts


# Comparing


def compared(file: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    """A row for everything that either side has."""
    rows = []
    for what in ours | theirs:
        if what not in theirs:
            verdict = "missing there"
        elif isinstance(theirs[what], Unreadable):
            verdict = "unreadable"
        elif what not in ours:
            verdict = "new there"
        else:
            same_kind = isinstance(ours[what], bool) == isinstance(theirs[what], bool)
            verdict = "same" if same_kind and ours[what] == theirs[what] else "drifted"
        sides = [_shown(side[what]) if what in side else None for side in (ours, theirs)]
        rows.append(Row(file, what, *sides, verdict))
    return rows


def _shown(value: Any) -> str:
    """As text without control characters, of bounded length."""
    return (ascii(str(value))[1:-1] if isinstance(value, Unreadable) else ascii(value))[:300]


def count_off(rows: list[Row]) -> int:
    return sum(row.verdict != "same" for row in rows)


def audited(checkout: Path) -> tuple[list[Row], dict[str, str]]:
    """All rows, and for each file what it was held against."""
    rows: list[Row] = []
    held_against: dict[str, str] = {}
    for file, read in READERS.items():
        try:
            theirs = read(Module(checkout / file))
        except Unreadable as problem:
            verdict = "unreadable" if (checkout / file).exists() else "missing there"
            rows.append(Row(file, "the file", "Python", _shown(problem), verdict))
            continue
        tries = [(name, compared(file, ours, theirs)) for name, ours in contracts(file).items()]
        # Of those that fit as well, the latest.
        held_against[file], best = min(reversed(tries), key=lambda one: count_off(one[1]))
        rows += best
    return rows, held_against


def print_tables(rows: list[Row], held_against: dict[str, str]) -> None:
    """A table for each file; what is not the same stands out."""
    for file in READERS:
        table = plain_table("what", "ours", "theirs", "verdict")
        table.title, table.title_justify = file, "left"
        table.columns[0].no_wrap = True
        for row in rows:
            if row.file == file:
                # As Text, since what a foreign file holds is no markup.
                cells = map(Text, (row.what, row.ours or "-", row.theirs or "-", row.verdict))
                table.add_row(*cells, style=None if row.verdict == "same" else "bold")
        table.caption = f"held against: {held_against.get(file, 'nothing')}"
        Console().print(table)
    print(f"{count_off(rows)} of {len(rows)} rows are not the same")


def main() -> int:
    parser = argparse.ArgumentParser(description="Where nanochat has drifted from our contract.")
    parser.add_argument("checkout", type=Path, help="its folder; what is in it is read, never run")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = parser.parse_args()
    if not any((given.checkout / file).is_file() for file in READERS):
        place = f"a checkout of nanochat must hold nanochat/gpt.py, {given.checkout} does not"
        print(f"{place}; check the path", file=sys.stderr)
        return 2
    rows, held_against = audited(given.checkout)
    if given.json:
        told = {"held_against": held_against, "off": count_off(rows), "rows": list(map(asdict, rows))}
        print(json.dumps(told, indent=2))
    else:
        print_tables(rows, held_against)
    return int(count_off(rows) > 0)


if __name__ == "__main__":
    sys.exit(main())
