"""The model's bench checks before it times, and races a checkout on equal weights or says why it cannot."""

import json
import subprocess
import sys

import pytest
import torch

from megacontext.bench.model import ModelBenchConfig, bench_model, random_model
from megacontext.cli import main
from megacontext.errors import ConfigError, UnknownVariantError

TINY = dict(depth=2, width=32, vocab_size=77, sequence_len=160, batch=2, decoded=3, rounds=2)
ARMS = ["train", "prefill", "decode, rows 1", "decode, rows 8"]
# A checkout as the bench sees one. Inside it is our own model, so that logits agree and no code is foreign.
GPT = """
import dataclasses, torch, torch.nn.functional as F
from megacontext.models.gpt import GPT as Own, GPTConfig as OwnConfig
print("what a checkout prints while it is imported")
@dataclasses.dataclass
class GPTConfig:
    sequence_len: int
    vocab_size: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    window_pattern: str = "L"
class GPT(Own):
    def __init__(self, config):
        super().__init__(OwnConfig(dialect="{dialect}", **dataclasses.asdict(config)))
        self.cos = self.sin = torch.zeros(1, 10, 1, 8, dtype=torch.bfloat16)
    def init_weights(self):
        pass
    def forward(self, ids, targets=None, kv_cache=None):
        assert {insists} is None or self.cos.dtype == {insists}
        past = kv_cache.own.length if kv_cache else 0
        positions = torch.arange(past, past + ids.shape[1])[None]
        hidden = super().forward(self.embed(ids), positions, ids=ids, cache=kv_cache and kv_cache.own)
        logits = self.unembed(hidden) + {error}
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())
"""
ENGINE = """
import torch
from megacontext.models.gpt import KVCache as Own
class KVCache:
    def __init__(self, batch_size, num_heads, seq_len, head_dim, num_layers):
        shape = batch_size, seq_len, num_heads, head_dim
        self.own = Own([torch.empty(shape) for _ in range(num_layers)], [torch.empty(shape) for _ in range(num_layers)])
"""


def checkout(folder, dialect="current", error=0.0, engine=ENGINE, insists="None"):
    package = folder / "nanochat"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    filled = GPT.replace("{dialect}", dialect).replace("{error}", str(error)).replace("{insists}", insists)
    (package / "gpt.py").write_text(filled)
    (package / "engine.py").write_text(engine)
    return folder


@pytest.mark.parametrize("dialect", ["classic", "2026-03-02", "current"])
def test_every_arm_has_a_rate_and_a_ratio_with_its_spread(tmp_path, dialect):
    told = bench_model(ModelBenchConfig(dialect=dialect, **TINY), checkout(tmp_path / "c", dialect), print)
    assert list(told["arms"]) == ARMS and told["machine"]["threads"] >= 1
    for arm in told["arms"].values():
        for name in ("tokens_per_s", "nanochat_tokens_per_s", "time_over_nanochat"):
            assert 0 < arm[f"{name}_min"] <= arm[name] <= arm[f"{name}_max"]
    assert told["checks"]["nanochat_minus_ours"] == 0 and told["checks"]["cached_minus_full"] < 1e-4


def test_alone_it_has_rates_and_no_ratio():
    told = bench_model(ModelBenchConfig(**TINY), None, lambda arm: None)
    assert list(told["arms"]["train"]) == ["tokens_per_s", "tokens_per_s_min", "tokens_per_s_max"]


def test_a_checkout_without_a_cache_is_raced_where_it_can_be(tmp_path):
    folder = checkout(tmp_path / "c", engine="import no_such_module")
    told = bench_model(ModelBenchConfig(**TINY), folder, lambda arm: None)
    assert "no_such_module" in told["nanochat_lacks"]
    assert (
        "time_over_nanochat" in told["arms"]["train"] and "time_over_nanochat" not in told["arms"]["prefill"]
    )


def test_nothing_is_timed_when_logits_differ(tmp_path):
    arms = []
    with pytest.raises(
        ConfigError, match=r"must agree to 0.001 before anything is timed, nanochat_minus_ours is"
    ):
        bench_model(ModelBenchConfig(**TINY), checkout(tmp_path / "c", error=0.5), arms.append)
    assert arms == ["checking logits"]


def test_a_checkout_that_insists_on_rounded_tables_is_compared_roughly(tmp_path):
    folder = checkout(tmp_path / "c", "classic", error=0.1, insists="torch.bfloat16")
    told = bench_model(ModelBenchConfig(dialect="classic", **TINY), folder, lambda arm: None)
    assert told["checks"]["nanochat_minus_ours"] == pytest.approx(0.1, abs=1e-3)
    folder = checkout(tmp_path / "d", "classic", error=0.1, insists="torch.float32")
    with pytest.raises(ConfigError, match=r"must agree to 0.001 before"):
        bench_model(ModelBenchConfig(dialect="classic", **TINY), folder, lambda arm: None)


def test_a_checkout_of_another_dialect_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"must speak dialect 'current', .* does not take its weights"):
        bench_model(ModelBenchConfig(**TINY), checkout(tmp_path / "c", "2026-01-11"), print)


@pytest.mark.parametrize("source", [None, "import no_such_module", "def (", "raise SystemExit(1)"])
def test_a_checkout_that_cannot_be_imported_is_one_sentence_and_exit_code_2(tmp_path, capsys, source):
    folder = tmp_path / "c"
    folder.mkdir()
    if source is not None:
        checkout(folder / "inside")
        folder = folder / "inside"
        (folder / "nanochat" / "gpt.py").write_text(source)
    before = list(sys.path)
    assert main(["bench", "model", "--nanochat", str(folder)]) == 2
    error = capsys.readouterr().err
    assert "megacontext: --nanochat must be a checkout whose nanochat/gpt.py can be imported" in error
    assert "Traceback" not in error and error.count("\n") == 1
    assert sys.path == before and not any(name.split(".")[0] == "nanochat" for name in sys.modules)


def test_the_command_prints_json_alone_whatever_the_checkout_prints(tmp_path, capsys):
    options = [part for name, value in TINY.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    folder = str(checkout(tmp_path / "c", "2026-03-09"))
    asked = ["bench", "model", "--dialect", "2026-03-09", "--nanochat", folder, *options]
    assert main([*asked, "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["arms"]) == ARMS
    assert main(asked) == 0
    assert "time / nanochat's" in capsys.readouterr().out


def test_the_help_says_that_the_checkouts_code_is_run():
    program = "from megacontext.cli import main; main(['bench', 'model', '--help'])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "RUNS the code in that folder" in " ".join(told.stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"dialect": "curent"}, UnknownVariantError),
        ({"rounds": 0}, ConfigError),
        ({"decoded": 81}, ConfigError),
    ],
)
def test_a_bench_that_cannot_be_is_refused(wrong, error):
    with pytest.raises(error):
        ModelBenchConfig(**(TINY | wrong))


def test_every_parameter_of_the_random_model_does_something():
    model = random_model(ModelBenchConfig(**TINY).shape(), torch.Generator().manual_seed(0))
    assert all(parameter.abs().min() > 0 for parameter in model.parameters())
