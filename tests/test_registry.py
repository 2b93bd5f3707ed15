"""A registry gives back what was filed, and says what it knows when asked for anything else."""

import pytest

from megacontext.errors import ConfigError, UnknownVariantError
from megacontext.registry import Registry


def fruits() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    registry.register("apple")(1)
    registry.register("pear")(2)
    return registry


def test_get_returns_what_was_registered_and_names_keep_the_order():
    assert fruits().get("pear") == 2
    assert fruits().names() == ["apple", "pear"]


def test_register_decorates_a_class_without_changing_it():
    registry: Registry[type] = Registry("scorer")

    @registry.register("plain")
    class Plain:
        pass

    assert registry.get("plain") is Plain


def test_an_unknown_name_is_answered_with_the_nearest_and_with_all_names():
    with pytest.raises(
        UnknownVariantError, match=r"unknown fruit 'aple'; did you mean 'apple'\? known are apple, pear"
    ):
        fruits().get("aple")


def test_a_name_like_no_other_gets_no_suggestion():
    with pytest.raises(UnknownVariantError, match=r"unknown fruit 'zzz'; known are apple, pear$"):
        fruits().get("zzz")


def test_an_empty_registry_says_that_it_knows_none():
    with pytest.raises(UnknownVariantError, match="known are none"):
        Registry("fruit").get("apple")


def test_a_taken_name_is_refused_and_keeps_its_entry():
    registry = fruits()
    with pytest.raises(ConfigError, match="'apple' is taken"):
        registry.register("apple")(3)
    assert registry.get("apple") == 1
