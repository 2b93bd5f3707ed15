"""Recipes: what a dataclass says goes in and comes back; everything else is refused with a sentence."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megacontext import config
from megacontext.config import (
    dump_recipe,
    fingerprint,
    from_mapping,
    load_recipe,
    parse_override,
    to_mapping,
)
from megacontext.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Focus:
    budget: int = 256
    threshold: float = 0.2
    strategy: Literal["greedy", "lazy"] = "greedy"

    def __post_init__(self) -> None:
        if self.budget < 32:
            raise ConfigError(
                f"budget must hold one block of 32 tokens, got {self.budget}; raise focus.budget"
            )


@dataclass(frozen=True, kw_only=True)
class Stage:
    name: str
    steps: int = 10


@dataclass(frozen=True, kw_only=True)
class Recipe:
    seed: int = 0
    serve: bool = True
    book: Path | None = None
    either: int | str = 1
    lengths: tuple[int, ...] = (16, 150)
    window: tuple[int, float] = (4, 0.5)
    weights: dict[str, float] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    focus: Focus = field(default_factory=Focus)


@dataclass(frozen=True, kw_only=True)
class Stubborn:
    limit: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class Shift:
    by: Literal[0, 1] = 0


recipes = st.builds(
    Recipe,
    seed=st.integers(-(2**63), 2**63 - 1),
    serve=st.booleans(),
    book=st.none() | st.sampled_from([Path("emma.txt"), Path("books/emma.txt")]),
    either=st.integers(-5, 5) | st.text(max_size=5),
    lengths=st.lists(st.integers(0, 9)).map(tuple),
    weights=st.dictionaries(st.text(max_size=4), st.floats(allow_nan=False)),
    stages=st.lists(st.builds(Stage, name=st.text(max_size=5), steps=st.integers(0, 9)), max_size=3).map(
        tuple
    ),
    focus=st.builds(Focus, budget=st.integers(32, 2048), threshold=st.floats(0, 1)),
)


@given(recipes)
def test_to_mapping_is_plain_json_and_from_mapping_undoes_it(recipe: Recipe):
    assert from_mapping(Recipe, json.loads(json.dumps(to_mapping(recipe)))) == recipe


@given(recipe=recipes)
def test_a_dumped_recipe_loads_as_the_same_recipe(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("recipe") / "recipe.toml"
    dump_recipe(recipe, path)
    assert load_recipe(Recipe, path) == recipe
    assert [entry.name for entry in path.parent.iterdir()] == ["recipe.toml"]


@given(recipes, recipes)
def test_fingerprints_agree_exactly_when_the_values_do(one: Recipe, other: Recipe):
    assert (fingerprint(one) == fingerprint(other)) == (to_mapping(one) == to_mapping(other))


def test_a_fingerprint_is_16_hex_digits_and_ignores_the_spelling_of_a_float():
    assert len(fingerprint(Recipe())) == 16 and int(fingerprint(Recipe()), 16) >= 0
    assert fingerprint(Focus(threshold=1)) == fingerprint(Focus(threshold=1.0))
    assert fingerprint(Focus(threshold=1)) != fingerprint(Focus(threshold=0.5))


def test_an_empty_mapping_gives_the_defaults():
    assert from_mapping(Recipe, {}) == Recipe()


def test_an_integer_is_taken_for_a_float_and_becomes_one():
    threshold = from_mapping(Focus, {"threshold": 1}).threshold
    assert threshold == 1.0 and isinstance(threshold, float)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"sed": 1}, r"recipe: unknown key 'sed'; did you mean 'seed'\? allowed are seed, serve, book"),
        (
            {"focus": {"bugdet": 1}},
            r"unknown key 'focus\.bugdet'; did you mean 'budget'\? allowed are budget, thre",
        ),
        ({"focus": {"xyz": 1}}, r"unknown key 'focus\.xyz'; allowed are"),
        ({"seed": "7"}, r"seed must be an integer, got the text '7'"),
        ({"seed": 1.0}, r"seed must be an integer, got 1\.0"),
        ({"seed": True}, r"seed must be an integer, got True"),
        ({"serve": 1}, r"serve must be true or false, got 1"),
        ({"focus": {"threshold": True}}, r"focus\.threshold must be a number, got True"),
        ({"focus": {"threshold": float("nan")}}, r"focus\.threshold must be a number, got nan"),
        (
            {"focus": {"strategy": "gredy"}},
            r"focus\.strategy must be one of 'greedy', 'lazy', got the text 'gredy'",
        ),
        ({"focus": 3}, r"focus must be a table of keys, got 3"),
        ({"focus": None}, r"focus must be a table of keys, got None"),
        ({"book": 3}, r"book must be a path, got 3"),
        ({"either": 1.5}, r"either must be an integer or a text, got 1\.5"),
        ({"lengths": 3}, r"lengths must be a list, each item an integer, got 3"),
        ({"lengths": [1, "2"]}, r"lengths\[1\] must be an integer, got the text '2'"),
        ({"window": [1]}, r"window must be a list of 2: an integer, a number, got \[1\]"),
        ({"weights": {"a": "b"}}, r"weights\.a must be a number"),
        ({"stages": [{"steps": 1}]}, r"the key 'stages\[0\]\.name' has no default"),
        ({"focus": {"budget": 20}}, r"budget must hold one block of 32 tokens, got 20"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(mapping: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        from_mapping(Recipe, mapping)


def test_the_source_is_named_in_the_message():
    with pytest.raises(ConfigError, match=r"^model\.json: unknown key"):
        from_mapping(Recipe, {"nonsense": 1}, where="model.json")


def test_a_truth_value_never_passes_for_the_literal_one():
    assert from_mapping(Shift, {"by": 1}).by == 1
    with pytest.raises(ConfigError, match="one of 0, 1, got True"):
        from_mapping(Shift, {"by": True})


def test_overrides_replace_single_keys_and_leave_the_rest(tmp_path: Path):
    path = tmp_path / "small.toml"
    path.write_text("seed = 3\n[focus]\nbudget = 64\nthreshold = 0.5\n")
    recipe = load_recipe(Recipe, path, {"focus.budget": 128, "serve": False, "book": None})
    assert (recipe.seed, recipe.serve, recipe.focus) == (3, False, Focus(budget=128, threshold=0.5))


def test_an_override_may_open_a_table_that_the_file_left_out(tmp_path: Path):
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert load_recipe(Recipe, path, {"focus.budget": 33}).focus.budget == 33


@pytest.mark.parametrize(
    ("key", "message"),
    [("focus.bugdet", "did you mean 'budget'"), ("seed.deep", "'seed' of 'seed.deep' is a single value")],
)
def test_an_override_of_no_known_key_is_refused(tmp_path: Path, key: str, message: str):
    path = tmp_path / "small.toml"
    path.write_text("seed = 3\n")
    with pytest.raises(ConfigError, match=message):
        load_recipe(Recipe, path, {key: 1})


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("focus.budget=128", ("focus.budget", 128)),
        ("focus.threshold = 0.5", ("focus.threshold", 0.5)),
        ("serve=false", ("serve", False)),
        ("name=tiny", ("name", "tiny")),
        ('name="7"', ("name", "7")),
        ("lengths=[1, 2]", ("lengths", [1, 2])),
        ("book=none", ("book", None)),
        ("name=a=b", ("name", "a=b")),
        ("name=", ("name", "")),
        ("name=1\nseed = 2", ("name", "1\nseed = 2")),
    ],
)
def test_a_typed_override_is_read_as_toml_or_else_as_text(text: str, parsed: tuple[str, object]):
    assert parse_override(text) == parsed


@pytest.mark.parametrize("text", ["", "focus.budget", "=3"])
def test_a_typed_override_without_key_or_value_is_refused(text: str):
    with pytest.raises(ConfigError, match="must read key=value"):
        parse_override(text)


def test_a_bare_name_finds_the_recipe_that_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "tiny.toml").write_text("seed = 5\n")
    monkeypatch.setattr(config, "data_root", lambda: tmp_path)
    assert load_recipe(Recipe, "tiny").seed == 5
    with pytest.raises(ConfigError, match=r"unknown recipe 'tinny'; did you mean 'tiny'\? known are tiny"):
        load_recipe(Recipe, "tinny")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"seed = \n", "must be TOML"),
        (b"\xff\xfe\x00", "must be TOML in UTF-8"),
        (b"\x00\x01", "must be TOML"),
    ],
)
def test_a_damaged_recipe_is_refused_in_a_sentence(tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_recipe(Recipe, path)


def test_an_absent_recipe_file_and_a_folder_are_refused_in_a_sentence(tmp_path: Path):
    for path in (tmp_path / "absent.toml", tmp_path, str(tmp_path / "absent.toml")):
        with pytest.raises(ConfigError, match="must be a readable file"):
            load_recipe(Recipe, path)


def test_none_is_left_out_of_toml(tmp_path: Path):
    dump_recipe(Recipe(book=None), tmp_path / "r.toml")
    assert "book" not in tomllib.loads((tmp_path / "r.toml").read_text())


def test_a_none_that_toml_would_turn_into_another_default_is_refused_and_nothing_is_written(tmp_path: Path):
    with pytest.raises(ConfigError, match="limit is None"):
        dump_recipe(Stubborn(limit=None), tmp_path / "r.toml")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_dump_leaves_the_old_recipe_alone(tmp_path: Path):
    dump_recipe(Stubborn(limit=0.25), tmp_path / "r.toml")
    with pytest.raises(ConfigError):
        dump_recipe(Stubborn(limit=None), tmp_path / "r.toml")
    assert load_recipe(Stubborn, tmp_path / "r.toml") == Stubborn(limit=0.25)


def test_the_data_folder_stands_beside_the_package():
    assert config.data_root() == Path(config.__file__).parent.parent / "data"


def test_an_installation_without_data_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(config, "__file__", str(tmp_path / "megacontext" / "config.py"))
    with pytest.raises(ConfigError, match="data/ must stand beside the package"):
        config.data_root()


def test_a_section_that_already_is_its_dataclass_is_taken_as_it_is():
    focus = Focus(budget=64)
    assert from_mapping(Recipe, {"focus": focus}).focus is focus
