"""The bench of attention: counts what is seen, times nothing that is wrong, and says when it saw no GPU."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from megakernels.pyramid_attention import Pyramid
from megakernels.pyramid_attention.cost import equal_window, most_seen, pairs_of, whole_sight
from megakernels.pyramid_attention.reference import seen

SCRIPT = Path(__file__).resolve().parents[2] / "kernels" / "bench" / "attention.py"
CPU = torch.device("cpu")


@pytest.fixture
def bench(monkeypatch):
    """Its modules, which lie beside one another like those of any script."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    names = ("attention", "counting", "device")
    yield {name: importlib.import_module(name) for name in names}
    for name in names:
        del sys.modules[name]


def shape_of(bench, **changes):
    given = {"rule": Pyramid(window=20, block=4, spans=(24,)), "heads": 4, "shared": 2, "width": 16}
    return bench["attention"].Shape(**given | changes, dtype=torch.float32, device=CPU, rounds=1)


@pytest.mark.parametrize("tokens", [1, 31, 131])
def test_pairs_are_what_the_mask_shows(bench, tokens):
    told = whole_sight(shape_of(bench).rule, tokens)
    shown = seen(told.runs, sum(told.levels))[0].sum(dim=-1)
    assert (pairs_of(told), most_seen(told)) == (int(shown.sum()), int(shown.max()))


@pytest.mark.parametrize("tokens", [1, 31, 1025])
def test_a_window_of_equal_cost_sees_as_many_pairs(bench, tokens):
    for pairs in {tokens, tokens * 3 // 2, tokens * (tokens + 1) // 2}:
        window = equal_window(pairs, tokens)
        found = pairs_of(bench["attention"].window_sight(window, tokens, CPU))
        assert abs(found - pairs) < max(1, tokens) and 1 <= window <= tokens


def test_the_slope_of_a_power_is_its_exponent(bench):
    lengths = [2**power for power in range(8, 14)]
    assert bench["counting"].slope(lengths, [3e-9 * one**1.75 for one in lengths]) == pytest.approx(1.75)


def test_products_are_counted_for_pairs_and_heads_and_bytes_once(bench):
    forward = bench["counting"].work_of(10, 4, 5, heads=6, shared=2, width=8, item_bytes=2, backward=False)
    assert forward.flops == 2 * 2 * 10 * 6 * 8
    assert forward.bytes == 2 * (2 * 4 * 6 * 8 + 2 * 5 * 2 * 8)


def test_what_is_wrong_is_not_timed(bench, monkeypatch):
    attention, shape = bench["attention"], shape_of(bench)
    assert set(attention.check(shape, 33)) == {"pyramid", "dense", "window"}
    right = attention.chunked.attend

    def wrong(q, key, value, what, scale):
        out, lse = right(q, key, value, what, scale)
        return out * 1.001, lse

    monkeypatch.setattr(attention.chunked, "attend", wrong)
    with pytest.raises(SystemExit, match="nothing is timed that is not right: pyramid over 33 tokens"):
        attention.check(shape, 33)


def test_one_call_measures_what_there_is(tmp_path):
    told = subprocess.run(
        [sys.executable, str(SCRIPT), "--tokens", "600", "300", "--rounds", "1", "--json"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    found = json.loads(told.stdout)
    assert list(found["lengths"]) == ["300", "600"]
    on_gpu = torch.cuda.is_available()
    assert set(found["lengths"]["600"]) == {"pyramid", "dense", "window"} | ({"flex"} if on_gpu else set())
    assert ("no GPU was seen" in found["note"]) != on_gpu and bool(found["judged"]) == on_gpu
    for arm in found["lengths"]["600"].values():
        assert arm["forward"]["seconds"] > 0 and arm["forward"]["share_of_ceiling"] > 0
