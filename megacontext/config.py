"""Recipes: TOML tables become frozen dataclasses, and back.

Each class that can be configured keeps a frozen keyword-only dataclass beside it, which holds the defaults
and checks its own rules in `__post_init__`. A recipe nests such dataclasses. Here is what they share: reading
a mapping with every key and type checked, overriding single keys, writing the resolved recipe, and a
fingerprint of it.

Deliberately ignorant of what any key means. No key is ever dropped or coerced in silence; the one conversion
is an integer given for a float.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import tomli_w

from megacontext.errors import ConfigError

C = TypeVar("C")

CACHE_VARIABLE = "MEGACONTEXT_CACHE"

_WORDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a text",
    Path: "a path",
    type(None): "nothing",
}


def data_root() -> Path:
    """The folder data/ of the checkout: recipes and small texts and checkpoints that ship.

    Raises ConfigError where the package was installed without it.
    """
    folder = Path(__file__).resolve().parent.parent / "data"
    if not folder.is_dir():
        raise ConfigError(
            f"the folder data/ must stand beside the package, {folder} does not exist; "
            "work from a checkout and install it with `pip install -e .`"
        )
    return folder


def converted_folder(name: str) -> Path:
    """Where a base model that had to be converted is kept: under $MEGACONTEXT_CACHE, or ~/.cache/megacontext.

    It need not be there yet.
    """
    root = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "megacontext")
    return root / "bases" / name


def from_mapping(cls: type[C], mapping: Mapping[str, object], where: str = "recipe") -> C:
    """The dataclass `cls` with the values of `mapping`; fields that it leaves out keep their defaults.

    `where` names the source in messages. Understands bool, int, float, str, Path, None, Literal, unions,
    tuples (from lists), dicts with text keys and nested dataclasses. Raises ConfigError for an unknown key, a
    wrong type, a missing value, and whatever rule the dataclass adds in `__post_init__`.
    """
    return _dataclass(cls, mapping, where, ())


def load_recipe(cls: type[C], path_or_name: str | Path, overrides: Mapping[str, object] | None = None) -> C:
    """The recipe in a TOML file, or in data/recipes/<name>.toml when a bare name is given, as a `cls`.

    As `load_table` finds it. Raises ConfigError.
    """
    return from_mapping(cls, load_table(path_or_name, overrides), where=recipe_source(path_or_name))


def load_table(path_or_name: str | Path, overrides: Mapping[str, object] | None = None) -> dict[str, Any]:
    """A recipe's plain table, for whoever has to look into it to know which class it is of.

    A text with a folder separator or the ending .toml is a file. `overrides` maps dotted keys
    ("focus.budget") to values that replace those of the file. Raises ConfigError.
    """
    path = _recipe_path(path_or_name)
    try:
        with path.open("rb") as file:
            table: dict[str, Any] = tomllib.load(file)
    except OSError as problem:
        raise ConfigError(
            f"a recipe must be a readable file, {path} is not ({problem.strerror}); check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise ConfigError(
            f"a recipe must be TOML in UTF-8, {path} is not ({problem}); mend that place"
        ) from None
    for key, value in (overrides or {}).items():
        _override(table, key, value)
    return table


def recipe_source(path_or_name: str | Path) -> str:
    """What messages call a recipe."""
    return f"recipe {_recipe_path(path_or_name).stem}"


def parse_override(text: str) -> tuple[str, object]:
    """Key and value of `focus.budget=128`, as typed on a command line. ConfigError without key or `=`.

    The value is read as TOML; what is no TOML value is a text, so that quotes are not needed. `none` means
    nothing.
    """
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not key or not equals:
        raise ConfigError(
            f"an override must read key=value, got {text!r}; write for example focus.budget=256"
        )
    if value == "none":
        return key, None
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    # A line break inside the value could smuggle in further keys; then it was a text after all.
    return key, parsed["value"] if len(parsed) == 1 else value


def to_mapping(config: Any) -> dict[str, Any]:
    """The plain values of a config: dicts, lists, texts, numbers, None. `from_mapping` undoes it."""
    return {
        field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init
    }


def dump_recipe(config: Any, path: str | Path) -> None:
    """Write a config as TOML, whole or not at all. Keys that are None are left out: TOML has no word for
    nothing.

    Raises ConfigError where leaving out a None would bring back a default that is something else.
    """
    table = _without_none(config)
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(tomli_w.dumps(table).encode())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def fingerprint(config: Any) -> str:
    """16 hex digits (blake2b over canonical JSON): equal for equal values, in any order and spelling."""
    # Through from_mapping, so that 1 given for a float counts the same as 1.0.
    mapping = to_mapping(from_mapping(type(config), to_mapping(config)))
    canonical = json.dumps(mapping, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def _recipe_path(path_or_name: str | Path) -> Path:
    text = str(path_or_name)
    if isinstance(path_or_name, Path) or text.endswith(".toml") or "/" in text or os.sep in text:
        return Path(path_or_name)
    folder = data_root() / "recipes"
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if text not in known:
        raise ConfigError(
            f"unknown recipe {text!r}; {_suggestion(text, known)}"
            f"known are {', '.join(known) or 'none'}; or give the path of a .toml file"
        )
    return folder / f"{text}.toml"


def _override(table: dict[str, Any], dotted: str, value: object) -> None:
    *sections, last = dotted.split(".")
    for depth, name in enumerate(sections):
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"an override must name a key inside a table, {'.'.join(sections[: depth + 1])!r} "
                f"of {dotted!r} is a single value; shorten the key"
            )
    table[last] = value


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _suggestion(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def _dataclass(cls: type[C], mapping: object, where: str, path: tuple[str, ...]) -> C:
    if not isinstance(mapping, Mapping):
        place = f"{where}: {'.'.join(path)}" if path else where
        raise ConfigError(
            f"{place} must be a table of keys, got {_shown(mapping)}; write one key per line in it"
        )
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            raise ConfigError(
                f"{where}: unknown key {'.'.join((*path, str(key)))!r}; {_suggestion(str(key), list(fields))}"
                f"allowed are {', '.join(fields)}"
            )
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(_hints(cls)[name], mapping[name], where, (*path, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: the key {'.'.join((*path, name))!r} has no default; give it a value")
    return cls(**values)


def _convert(wanted: Any, value: object, where: str, path: tuple[str, ...]) -> Any:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if dataclasses.is_dataclass(wanted):
        # A value that already is the dataclass comes from Python code, not from a file, and has been checked.
        return value if isinstance(value, wanted) else _dataclass(wanted, value, where, path)
    if origin in (Union, types.UnionType):
        return _union(wanted, arguments, value, where, path)
    if origin is tuple and isinstance(value, (list, tuple)):
        return _tuple(wanted, arguments, value, where, path)
    if origin in (dict, Mapping) and isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: _convert(arguments[1], item, where, (*path, key)) for key, item in value.items()}
    elif origin is Literal:
        # 1 == True in Python, so the type has to agree as well.
        for allowed in arguments:
            if type(allowed) is type(value) and allowed == value:
                return value
    elif wanted is Any:
        return value
    elif wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isnan(value):
            return float(value)
    elif wanted is Path and isinstance(value, (str, Path)):
        return Path(value)
    elif (
        isinstance(wanted, type)
        and isinstance(value, wanted)
        and (wanted is bool or not isinstance(value, bool))
    ):
        return value
    _refuse(wanted, value, where, path)


def _union(wanted: Any, options: tuple[Any, ...], value: object, where: str, path: tuple[str, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        # One real option: its own message is the more helpful one.
        return _convert(rest[0], value, where, path)
    # The exact type wins, so that 1 given for `float | int` stays an integer.
    for option in sorted(rest, key=lambda option: option is not type(value)):
        try:
            return _convert(option, value, where, path)
        except ConfigError:
            continue
    _refuse(wanted, value, where, path)


def _tuple(
    wanted: Any, arguments: tuple[Any, ...], value: list | tuple, where: str, path: tuple[str, ...]
) -> tuple[Any, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        _refuse(wanted, value, where, path)
    return tuple(
        _convert(kind, item, where, (*path[:-1], f"{path[-1]}[{position}]"))
        for position, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _refuse(wanted: Any, value: object, where: str, path: tuple[str, ...]) -> typing.NoReturn:
    raise ConfigError(
        f"{where}: {'.'.join(path)} must be {_described(wanted)}, got {_shown(value)}; change that value"
    )


def _described(wanted: Any) -> str:
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_described(option) for option in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list, each item {_described(arguments[0])}"
        return f"a list of {len(arguments)}: {', '.join(map(_described, arguments))}"
    if origin in (dict, Mapping):
        return f"a table, each value {_described(arguments[1])}"
    if dataclasses.is_dataclass(wanted):
        return "a table of keys"
    return _WORDS.get(wanted, str(wanted))


def _shown(value: object) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    return f"the text {text}" if isinstance(value, str) else text


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _without_none(config: Any, path: tuple[str, ...] = ()) -> dict[str, Any]:
    table = {}
    for field in dataclasses.fields(config):
        if not field.init:
            continue
        value, here = getattr(config, field.name), (*path, field.name)
        if value is None:
            if field.default is not None:
                raise ConfigError(
                    f"{'.'.join(here)} is None and TOML cannot say so, while its default is something else; "
                    "give the field the default None or a value that means nothing"
                )
        elif dataclasses.is_dataclass(value):
            table[field.name] = _without_none(value, here)
        else:
            table[field.name] = _toml_value(value, here)
    return table


def _toml_value(value: Any, path: tuple[str, ...]) -> Any:
    if value is None:
        raise ConfigError(
            f"{'.'.join(path)} holds None inside a list or a table and TOML cannot say so; leave it out"
        )
    if dataclasses.is_dataclass(value):
        return _without_none(value, path)
    if isinstance(value, Mapping):
        return {key: _toml_value(item, (*path, key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_toml_value(item, path) for item in value]
    return _plain(value)
