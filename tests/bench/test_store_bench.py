"""The store's bench runs, checks what it measures, and says what it was measured on."""

import json

import pytest

from megacontext.bench.store import StoreBenchConfig, bench_store
from megacontext.cli import main

TINY = dict(short_tokens=2000, long_tokens=40_000, encoded_tokens=2000, rounds=1, reads=3)


@pytest.fixture(scope="module")
def told(bundle):
    arms = []
    result = bench_store(StoreBenchConfig(**TINY), bundle, arms.append)
    assert len(arms) == 7
    return result


def test_every_figure_has_its_spread_and_the_machine(told):
    assert told["machine"]["cores"] >= 1 and told["machine"]["lmdb"]
    for arm, name in (
        ("ids_only", "tokens_per_s"),
        ("with_gists", "share_of_gistnet"),
        ("scaling", "ratio"),
        ("reading", "read_256_gists_ms"),
        ("single_appends", "sync_ms"),
    ):
        assert 0 < told[arm][f"{name}_min"] <= told[arm][name] <= told[arm][f"{name}_max"]


def test_the_file_is_accounted_for(told):
    disk = told["disk"]
    assert disk["record_bytes"] == sum(table["record_bytes"] for table in disk["tables"].values())
    assert sum(table["page_bytes"] for table in disk["tables"].values()) <= disk["file_bytes"]
    # A token takes its two bytes, its share of a block's key and checksum, and more for gist and address.
    assert disk["bytes_per_token"] > 2 + 12 / 32


def test_the_command_prints_it(bundle_folder, capsys):
    options = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["bench", "store", "--model", str(bundle_folder), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["long_tokens"] == 40_000
    assert main(["bench", "store", "--model", str(bundle_folder), *options]) == 0
    assert "256 random gists, ms" in capsys.readouterr().out
