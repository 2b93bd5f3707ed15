"""Commands that prose gives can be given: they parse, and what they name is there. None is run.

`megacontext ...` is read by the command line itself, and where the command goes by a recipe or a suite, so are its
configuration and every key of `--set`. Of a script (`python X.py`, `python -m X`, `tools/x`) the file must be there
and know each option. Of every other program the paths of ours must be there.

What may stand for something else, by rule:

- A word in capitals is the reader's: RECIPE is tried as tiny, SUITE as needles, KEY=VALUE as seed=0, others as 1.
- `...` is a value behind an option, else more of the same; an override with `...` in it is left out; [X] is tried.
- A name that the page's own code registers (`register("mine")`) is known to it: such a command is read no further.
- In prose `eval needles` is short for `megacontext eval needles`, and a|b is each of the two. In a block of code | ends
  a command, as && and ; do.
- In prose a command may stop early: what it still wants (a memory, a question) is added, or --help where a
  subcommand is wanted. In a block of code it must be whole.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

from doccheck.pages import Finding, Mention, Page
from doccheck.places import is_path, places

CHECKOUT = Path(__file__).resolve().parents[2]
SHELLS = ("bash", "sh", "console")
PYTHONS = ("torchrun", "python", "python3")
OTHERS = ("marimo", "pip", "pytest", "ruff")
COMMANDS = ("ask", "bench", "chat", "demo", "eval", "eval-language", "inspect", "memory", "nanochat", "train")
"""Commands of `megacontext` that prose may name without it, if something follows: `eval needles`."""
STANDS_FOR = {"RECIPE": "tiny", "SUITE": "needles"}
_PROGRAM = re.compile(
    rf"(\S+=\S+ )*(\.venv/bin/)?(megacontext|{'|'.join((*PYTHONS, *OTHERS))}|tools/\w+)(\s|$)"
)
_SHORT = re.compile(rf"({'|'.join(COMMANDS)})\s+[^\s=]")
_CAPITALS = re.compile(r"(?<![\w.-])[A-Z]([A-Z_/-]*[A-Z])?(?![\w.-])")
_REGISTERS = re.compile(r"register\(\"([\w-]+)\"\)")
_ENVIRONMENT = re.compile(r"[A-Z_]+=\S+")
_ENDS = {"&&", ";", "||"}
_REDIRECTIONS = {">", ">>", "<"}


def check_commands(root: Path, pages: Sequence[Page]) -> Iterator[Finding]:
    """One sentence for each command that cannot be given as it stands."""
    for page in pages:
        blocks = [block.text for section in page.sections for _, block in section.fences]
        known = frozenset(name for block in blocks for name in _REGISTERS.findall(block))
        for line, text, prose in _commands(page):
            try:
                commands = split(text, prose=prose)
            except ValueError as problem:
                yield page.find(
                    line, f"a command's quotes must be closed, `{text}` has {problem}; close them"
                )
                continue
            for words in commands:
                if known.isdisjoint(words) and (says := refused(root, words, prose=prose)):
                    yield page.find(line, says)


def is_command(text: str) -> bool:
    """Whether a span of code is a command that makes something, with what it is to do."""
    try:
        return any(len(words) > 1 and words[0] not in OTHERS for words in split(text, prose=True))
    except ValueError:
        return False


def split(text: str, *, prose: bool) -> list[list[str]]:
    """The commands in a text, as words; none where it is no command of ours. Raises ValueError for an open quote."""
    if prose and _SHORT.match(text):
        text = f"megacontext {text}"
    if not _PROGRAM.match(text):
        return []
    reader = shlex.shlex(text, posix=True, punctuation_chars="|;&<>")
    reader.whitespace_split, reader.commenters = True, "#"
    commands: list[list[list[str]]] = [[]]
    words = iter(list(reader))
    for word in words:
        if word in _ENDS or (word == "|" and not prose):
            commands.append([])
        elif word == "|":
            commands[-1][-1].append(next(words, ""))
        elif word in _REDIRECTIONS:
            next(words, None)
        elif word == "...":
            if commands[-1][-1][0].startswith("--"):
                commands[-1].append(["1"])
        elif commands[-1] or not _ENVIRONMENT.fullmatch(word):
            commands[-1].append([word.removeprefix(".venv/bin/")])
    return [list(chosen) for command in commands if command for chosen in itertools.product(*command)]


def refused(root: Path, words: Sequence[str], *, prose: bool) -> str | None:
    """Why a command cannot be given; None if it can."""
    program, *rest = words
    given = [tried(word) for word in rest if "..." not in word.rstrip(".")]
    for word in (program, *given):
        path = word.partition("::")[0]
        if is_path(root, path) and not places(root, path):
            return f"a command's path must be there, {word} is not; mend the name"
    if program in PYTHONS:
        return _python(root, given, prose)
    if program == "tools/demo":
        return _megacontext(("demo", *given), prose)
    if program == "megacontext" and (given or not prose):
        return _megacontext(tuple(given), prose)
    return None


def _python(root: Path, given: list[str], prose: bool) -> str | None:
    """Why `python ...` or `torchrun ...` cannot be given: as `-m megacontext`, as another module, or as a script."""
    if "-m" in given:
        module, *rest = given[given.index("-m") + 1 :]
        if module == "megacontext":
            return _megacontext(tuple(rest), prose)
        script = root / (module.replace(".", "/") + ".py")
        return _script(script, module, rest) if script.parent.is_dir() else None
    if given and given[0].endswith(".py"):
        return _script(root / given[0], given[0], given[1:])
    return None


def tried(word: str) -> str:
    """A word with what stands for something replaced by something."""
    word = word.removesuffix("...")
    if word.startswith("[") and word.endswith("]") and "=" not in word:
        word = word[1:-1]
    if word == "KEY=VALUE":
        return "seed=0"
    return _CAPITALS.sub(lambda found: STANDS_FOR.get(found[0], "1"), word) if " " not in word else word


@cache
def _megacontext(given: tuple[str, ...], prose: bool) -> str | None:
    says = _parsed(given)
    # In prose a command may stop before what it is given, or before its subcommand.
    for more in (("1",), ("1", "1"), ("--help",)) if prose else ():
        if says is None or "--help" in given:
            break
        if re.search("required|missing", says, re.IGNORECASE):
            says = _parsed((*given, *more)) and says
    if says is None:
        return None
    return f"a documented command must parse, `megacontext {shlex.join(given)}` does not ({says}); mend it"


def _parsed(given: Sequence[str]) -> str | None:
    from megacontext.cli.main import read_command
    from megacontext.errors import MegaContextError

    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            command = read_command(given, _declared())
        resolve = getattr(command, "resolved", None)
        if resolve is not None:
            resolve()
    except MegaContextError as problem:
        return str(problem)
    except SystemExit as ended:
        if ended.code in (0, None):
            return None
        # tyro frames what it says.
        words = re.sub(r"[^\w\s.,:;'\"<>=/\-{}()]|-{3,}", " ", told.getvalue())
        return " ".join(words.split())[:200]
    return None


@cache
def _declared() -> tuple[EntryPoint, ...]:
    """The commands that this checkout declares: an installation may be older, and its prose is not about that."""
    declared = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    group = "megacontext.commands"
    commands = declared["project"]["entry-points"][group]
    return tuple(EntryPoint(name, value, group) for name, value in commands.items())


def _script(path: Path, name: str, given: Sequence[str]) -> str | None:
    if not path.is_file():
        return f"a script must be there, {name} is not; mend the name"
    known = _names(path)
    for word in given:
        option = re.match(r"--([\w-]+)", word)
        if option and option[1].replace("-", "_") not in known:
            return f"a script must know its options, {name} knows no --{option[1]}; mend the command"
    return None


@cache
def _names(script: Path) -> frozenset[str]:
    """Every name that a script may mean by an option: fields, keywords, and options that it spells out."""
    names = {"help"}
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.keyword) and node.arg:
            names.add(node.arg)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value.removeprefix("--").replace("-", "_"))
    return frozenset(names)


def _commands(page: Page) -> Iterator[tuple[int, str, bool]]:
    """Line and text of all that may be a command, and whether it stands in prose."""
    for section in page.sections:
        for code in section.code:
            yield code.line, code.text, True
        for language, block in section.fences:
            if language in SHELLS:
                for line, text in _lines(block):
                    yield line, text, False


def _lines(block: Mention) -> Iterator[tuple[int, str]]:
    """Commands of a block of code, a line each, or several lines that end in a backslash."""
    waiting, first = "", block.line
    for number, line in enumerate(block.text.split("\n"), block.line):
        first = first if waiting else number
        waiting += line.strip().removeprefix("$ ")
        if waiting.endswith("\\"):
            waiting = waiting[:-1] + " "
            continue
        yield first, waiting
        waiting = ""
