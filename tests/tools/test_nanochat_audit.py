"""tools/nanochat_audit.py on small checkouts of our own making, in the shapes that nanochat's files have."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from megacontext.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN

TOOL = Path(__file__).resolve().parents[2] / "tools" / "nanochat_audit.py"

CURRENT_MODEL = '''
@dataclass
class GPTConfig:
    sequence_len: int = 2048
    vocab_size: int = 32768
    n_layer: int = 12
    n_head: int = 6 # queries
    n_kv_head: int = 6
    n_embd: int = 768
    window_pattern: str = "SSSL"

class Linear(nn.Linear):
    """Casts its weight."""
    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype))

class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.n_head = config.n_head
        self.c_q = Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = Linear(config.n_embd, config.kv, bias=False)
        self.c_v = Linear(config.n_embd, config.kv, bias=False)
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=False)
        self.ve_gate_channels = 12
        self.ve_gate = Linear(self.ve_gate_channels, config.n_kv_head, bias=False) if has_ve(layer_idx) else None

    def forward(self, x, ve, cos_sin):
        q, k, v = self.c_q(x), self.c_k(x), self.c_v(x)
        gate = 3 * torch.sigmoid(self.ve_gate(x[..., :self.ve_gate_channels]))
        q, k = rotated(q, cos_sin), rotated(k, cos_sin)
        q, k = norm(q), norm(k)
        q = q * 1.2 # sharper
        k = k * 1.2
        return self.c_proj(attend(q, k, v + gate * ve))

class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = Linear(4 * config.n_embd, config.n_embd, bias=False)

class Block(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer_idx)
        self.mlp = MLP(config)

class GPT(nn.Module):
    def __init__(self, config, pad_vocab_size_to=64):
        super().__init__()
        self.window_sizes = self._compute_window_sizes(config)
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(rows, config.n_embd),
            "h": nn.ModuleList([Block(config, layer_idx) for layer_idx in range(config.n_layer)]),
        })
        self.lm_head = Linear(config.n_embd, rows, bias=False)
        self.resid_lambdas = nn.Parameter(torch.ones(config.n_layer))
        self.x0_lambdas = nn.Parameter(torch.zeros(config.n_layer))
        self.smear_gate = Linear(24, 1, bias=False)
        self.smear_lambda = nn.Parameter(torch.zeros(1))
        self.backout_lambda = nn.Parameter(0.2 * torch.ones(1))
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(rows, kv_dim) for i in layers if has_ve(i)})
        self.register_buffer("cos", cos, persistent=False)

    def _precompute_rotary_embeddings(self, seq_len, head_dim, base=100000, device=None):
        return 1.0 / (base ** (torch.arange(0, head_dim, 2, device=device) / head_dim))

    def _compute_window_sizes(self, config):
        long_window = config.sequence_len
        short_window = -(-long_window // 4 // 128) * 128 # whole tiles
        char_to_window = {
            "L": (long_window, 0),
            "S": (short_window, 0),
        }
        return [char_to_window[char] for char in config.window_pattern]

    def forward(self, idx):
        x = x + self.smear_lambda * torch.sigmoid(self.smear_gate(x[..., :24])) * before
        softcap = 15
        return softcap * torch.tanh(self.lm_head(x) / softcap)
'''
CLASSIC_MODEL = """
@dataclass
class GPTConfig:
    sequence_len: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 6
    n_kv_head: int = 6
    n_embd: int = 768

class CausalSelfAttention(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.c_q = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.c_k = nn.Linear(config.n_embd, config.kv, bias=False)
        self.c_v = nn.Linear(config.n_embd, config.kv, bias=False)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=False)

class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)

class Block(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        self.attn = CausalSelfAttention(config, layer_idx)
        self.mlp = MLP(config)

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.transformer = nn.ModuleDict({
            "wte": nn.Embedding(config.vocab_size, config.n_embd),
            "h": nn.ModuleList([Block(config, layer_idx) for layer_idx in range(config.n_layer)]),
        })
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)

    def _precompute_rotary_embeddings(self, seq_len, head_dim, base=10000, device=None):
        return 1.0 / (base ** (torch.arange(0, head_dim, 2, device=device) / head_dim))

    def forward(self, idx, targets=None):
        softcap = 15
        if targets is not None:
            return loss(softcap * torch.tanh(self.lm_head(x) / softcap))
        return softcap * torch.tanh(self.lm_head(x) / softcap)
"""
TOKENIZER = 'SPECIAL_TOKENS = [\n    # the first begins a document\n{}]\nSPLIT_PATTERN = r"""{}"""\n'.format(
    "".join(f'    "{token}", # as it is\n' for token in SPECIAL_TOKENS), SPLIT_PATTERN
)
CHECKPOINTS = """
def save(folder, step, rank=0):
    write(os.path.join(folder, f"model_{step:06d}.pt"))
    write(os.path.join(folder, f"meta_{step:06d}.json"))
    write(os.path.join(folder, f"optim_{step:06d}_rank{rank:d}.pt"))
    log(f"saved to: {folder}")

def load_model(source):
    return {"base": "base_checkpoints", "sft": "chatsft_checkpoints", "rl": "chatrl_checkpoints"}[source]
"""
DATASET = """
DATA_DIR = os.path.join(base_dir, "base_data_climbmix")
def texts(file):
    return file.read_row_group(0).column('text').to_pylist()
"""
BASE_TRAIN = """
import os
os.environ["ALLOC"] = "expandable"
parser = argparse.ArgumentParser(description="Pretrain")
parser.add_argument("--run", type=str, default="dummy", help="name")
parser.add_argument("--device-type", type=str, default="")
parser.add_argument("--fp8", action="store_true")
parser.add_argument("--fp8-recipe", default="tensorwise", choices=["rowwise", "tensorwise"])
parser.add_argument("--depth", type=int, default=20)
parser.add_argument("--aspect-ratio", type=int, default=64)
parser.add_argument("--head-dim", type=int, default=128)
parser.add_argument("--max-seq-len", type=int, default=2048)
parser.add_argument("--window-pattern", type=str, default="SSSL")
parser.add_argument("--num-iterations", type=int, default=-1)
parser.add_argument("--target-flops", type=float, default=-1.0)
parser.add_argument("--target-param-data-ratio", type=float, default=12)
parser.add_argument("--device-batch-size", type=int, default=32)
parser.add_argument("--total-batch-size", type=int, default=-1)
parser.add_argument("--embedding-lr", type=float, default=0.3)
parser.add_argument("--unembedding-lr", type=float, default=0.008)
parser.add_argument("--weight-decay", type=float, default=0.28)
parser.add_argument("--matrix-lr", type=float, default=0.02)
parser.add_argument("--scalar-lr", type=float, default=0.5)
parser.add_argument("--warmup-steps", type=int, default=40)
parser.add_argument("--warmdown-ratio", type=float, default=0.65)
parser.add_argument("--final-lr-frac", type=float, default=0.05)
parser.add_argument("--resume-from-step", type=int, default=-1)
parser.add_argument("--eval-every", type=int, default=250)
parser.add_argument("--eval-tokens", type=int, default=80*524288)
parser.add_argument("--core-metric-every", type=int, default=2000)
parser.add_argument("--core-metric-max-per-task", type=int, default=500)
parser.add_argument("--sample-every", type=int, default=2000)
parser.add_argument("--save-every", type=int, default=-1)
parser.add_argument("--model-tag", type=str, default=None)
depth = 3 # no option of this generation
"""
CLASSIC_BASE_TRAIN = """
import os
os.environ["ALLOC"] = "expandable"
run = "dummy" # a name
device_type = ""
depth = 20
max_seq_len = 2048
num_iterations = -1
target_flops = -1.0
target_param_data_ratio = 20
device_batch_size = 32
total_batch_size = 524288
embedding_lr = 0.2
unembedding_lr = 0.004
weight_decay = 0.0
matrix_lr = 0.02
grad_clip = 1.0
warmup_ratio = 0.0
warmdown_ratio = 0.2
final_lr_frac = 0.0
resume_from_step = -1
eval_every = 250
eval_tokens = 20*524288
core_metric_every = 2000
core_metric_max_per_task = 500
sample_every = 2000
save_every = -1
model_tag = ""
config_keys = [k for k, v in globals().items() if isinstance(v, (int, float, bool, str))]
exec(open(os.path.join('nanochat', 'configurator.py')).read()) # options
user_config = {k: globals()[k] for k in config_keys}
num_layers = depth
"""
CHAT = """
parser.add_argument('-i', '--source', type=str, default="sft", help="sft|rl")
parser.add_argument('-g', '--model-tag', type=str, default=None)
parser.add_argument('-s', '--step', type=int, default=None)
parser.add_argument('-p', '--prompt', type=str, default='')
parser.add_argument('-t', '--temperature', type=float, default=0.6)
parser.add_argument('-k', '--top-k', type=int, default=50)
parser.add_argument('--device-type', type=str, default='', choices=['cuda', 'cpu', 'mps'])
"""
TOK_TRAIN = """
parser.add_argument('--max-chars', type=int, default=2_000_000_000)
parser.add_argument('--doc-cap', type=int, default=10_000)
parser.add_argument('--vocab-size', type=int, default=32768)
"""
CURRENT = {
    "nanochat/gpt.py": CURRENT_MODEL,
    "nanochat/tokenizer.py": TOKENIZER,
    "nanochat/checkpoint_manager.py": CHECKPOINTS,
    "nanochat/dataset.py": DATASET,
    "nanochat/dataloader.py": "texts = rg.column('text').to_pylist()\n",
    "scripts/base_train.py": BASE_TRAIN,
    "scripts/chat_cli.py": CHAT,
    "scripts/tok_train.py": TOK_TRAIN,
}
CLASSIC = {
    "nanochat/gpt.py": CLASSIC_MODEL,
    "nanochat/tokenizer.py": TOKENIZER,
    "nanochat/checkpoint_manager.py": CHECKPOINTS.replace("_rank{rank:d}", "").replace(
        '"sft"', '"mid": "mid_checkpoints", "sft"'
    ),
    "nanochat/dataset.py": DATASET.replace("_climbmix", ""),
    "nanochat/dataloader.py": "from nanochat.dataset import texts\n",
    "scripts/base_train.py": CLASSIC_BASE_TRAIN,
    "scripts/chat_cli.py": CHAT + "parser.add_argument('-d', '--dtype', type=str, default='bfloat16')\n",
    "scripts/tok_train.py": TOK_TRAIN.replace("-c", "_c")
    .replace("b-s", "b_s")
    .replace("2_000", "10_000")
    .replace("32768", "65536"),
}


def write(place: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return place


def run(*arguments, **more) -> subprocess.CompletedProcess:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **more)


def audit(checkout: Path) -> tuple[dict, list[tuple[str, str, str | None, str]]]:
    """The whole answer, and of each row that is not the same its file, what, theirs and verdict."""
    finished = run(checkout, "--json")
    assert finished.stderr == ""
    told = json.loads(finished.stdout)
    off = [row for row in told["rows"] if row["verdict"] != "same"]
    assert finished.returncode == (1 if off else 0) and told["off"] == len(off)
    return told, [(Path(row["file"]).stem, row["what"], row["theirs"], row["verdict"]) for row in off]


@pytest.mark.parametrize(("files", "dialect"), [(CURRENT, "current"), (CLASSIC, "classic")])
def test_a_checkout_that_agrees_is_free_of_drift(tmp_path, files, dialect):
    told, off = audit(write(tmp_path, files))
    assert off == []
    assert told["held_against"]["nanochat/gpt.py"] == f"{dialect}, {dialect} defaults"
    assert told["held_against"]["scripts/base_train.py"] == dialect
    compared = {row["what"]: row for row in told["rows"]}
    assert compared["stores transformer.h.*.attn.c_q.weight"]["verdict"] == "same"
    assert compared["split pattern"]["ours"] == repr(SPLIT_PATTERN)


def test_a_generation_in_between_is_recognised(tmp_path):
    model = (
        CURRENT_MODEL.replace("self.smear", "self.no")
        .replace("self.backout_lambda", "no")
        .replace("1.2", "1.15")
    )
    model = model.replace("long_window // 4 //", "long_window // 3 //")
    model = "\n".join(line for line in model.splitlines() if ".no_" not in line)
    told, off = audit(write(tmp_path, CURRENT | {"nanochat/gpt.py": model}))
    assert off == [] and told["held_against"]["nanochat/gpt.py"] == "2026-03-09, current defaults"


PLANTED = [
    # file, old, new, the rows that follow
    ("gpt", "n_head: int = 6", "n_head: int = 8", [("config n_head", "8", "drifted")]),
    ("gpt", "    n_embd: int = 768\n", "", [("config n_embd", None, "missing there")]),
    (
        "gpt",
        "n_embd: int = 768",
        "n_embd: int = 768\n    dropout: float = 0.1",
        [("config dropout", "0.1", "new there")],
    ),
    ("gpt", "n_embd: int = 768", "n_embd: int = width()", [("config n_embd", "width()", "unreadable")]),
    (
        "gpt",
        "self.c_fc",
        "self.w_in",
        [
            ("stores transformer.h.*.mlp.c_fc.weight", None, "missing there"),
            ("stores transformer.h.*.mlp.w_in.weight", "True", "new there"),
        ],
    ),
    (
        "gpt",
        "self.lm_head = Linear(config.n_embd, rows, bias=False)",
        "self.lm_head = Linear(config.n_embd, rows)",
        [("stores lm_head.bias", "True", "new there")],
    ),
    ("gpt", "softcap = 15", "softcap = 30", [("softcap", "30", "drifted")]),
    ("gpt", "softcap = 15", "softcap = 15 if old else 30", [("softcap", "15 if old else 30", "unreadable")]),
    ("gpt", "base=100000", "base=500_000", [("rotary base", "500000", "drifted")]),
    ("gpt", "q = q * 1.2", "q = q * 1.3", [("scale of q", "1.3", "drifted")]),
    ("gpt", "k = k * 1.2", "k *= 1.1 * 1", [("scale of k", "1.1", "drifted")]),
    ("gpt", "gate = 3 *", "gate = 2 *", [("scale of ve_gate", "2", "drifted")]),
    ("gpt", "ve_gate_channels = 12", "ve_gate_channels = 16", [("channels of ve_gate", "16", "drifted")]),
    ("gpt", "Linear(24, 1", "Linear(32, 1", [("channels of smear_gate", "32", "drifted")]),
    ("gpt", "pad_vocab_size_to=64", "pad_vocab_size_to=128", [("rows are a multiple of", "128", "drifted")]),
    (
        "gpt",
        "-(-long_window // 4 // 128) * 128",
        "long_window // 4",
        [("window S of 1000", "250", "drifted")],  # of 2048 and 4096 the two rules are one
    ),
    ("tokenizer", "<|user_end|>", "<|user_stop|>", [("special token 2", "'<|user_stop|>'", "drifted")]),
    ("tokenizer", '    "<|output_end|>", # as it is\n', "", [("special token 8", None, "missing there")]),
    (
        "tokenizer",
        "{1,2}",
        "{1,3}",
        [("split pattern", repr(SPLIT_PATTERN.replace("{1,2}", "{1,3}")), "drifted")],
    ),
    (
        "checkpoint_manager",
        "model_{step:06d}",
        "model_{step:08d}",
        [("file model", "'model_%08d.pt'", "drifted")],
    ),
    ("checkpoint_manager", "chatrl_", "rl_", [("folder rl", "'rl_checkpoints'", "drifted")]),
    ("dataset", "'text'", "'content'", [("column", "'content'", "drifted")]),
    ("dataloader", "'text'", "'content'", [("column", "'content'", "drifted")]),
    ("dataset", "base_data_climbmix", "base_data_new", [("folder", "'base_data_new'", "drifted")]),
    (
        "base_train",
        '"--depth", type=int, default=20',
        '"--depth", default=24',
        [("--depth", "24", "drifted")],
    ),
    (
        "base_train",
        '"--save-every"',
        '"--keep-every"',
        [
            ("--save-every", None, "missing there"),
            ("--keep-every", "-1", "new there"),
        ],
    ),
    ("base_train", "default=80*524288", "default=2**20", [("--eval-tokens", "1048576", "drifted")]),
    ("base_train", 'action="store_true"', "default=0", [("--fp8", "0", "drifted")]),
    ("base_train", 'default="dummy"', "default=os.getlogin()", [("--run", "os.getlogin()", "unreadable")]),
    ("chat_cli", "'-k', '--top-k'", "'--top-k'", [("-k", None, "missing there")]),
    (
        "chat_cli",
        "default=0.6",
        "default=1.0",
        [("-t", "1.0", "drifted"), ("--temperature", "1.0", "drifted")],
    ),
    ("tok_train", "10_000)", "20_000)", [("--doc-cap", "20000", "drifted")]),
]


@pytest.fixture(scope="module")
def tool():
    """The script as a module: starting it for every planted drift would take a minute."""
    spec = importlib.util.spec_from_file_location("nanochat_audit", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("stem", "old", "new", "rows"), PLANTED, ids=[f"{one[0]}: {one[2]}"[:40] for one in PLANTED]
)
def test_a_planted_drift_is_the_only_one_found(tmp_path, tool, stem, old, new, rows):
    (name,) = (name for name in CURRENT if Path(name).stem == stem)
    assert old in CURRENT[name]
    found, _ = tool.audited(write(tmp_path, CURRENT | {name: CURRENT[name].replace(old, new)}))
    off = {(row.file, row.what, row.theirs, row.verdict) for row in found if row.verdict != "same"}
    assert off == {(name, *row) for row in rows}


def test_a_drift_of_the_classic_generation_is_found(tmp_path):
    files = CLASSIC | {"scripts/base_train.py": CLASSIC_BASE_TRAIN.replace("depth = 20", "depth = 26")}
    _, off = audit(write(tmp_path, files))
    assert off == [("base_train", "--depth", "26", "drifted")]


def test_the_table_says_what_drifted_and_the_exit_code_that_something_did(tmp_path):
    files = CURRENT | {"scripts/tok_train.py": TOK_TRAIN.replace("10_000)", "20_000)")}
    finished = run(write(tmp_path, files))
    assert finished.returncode == 1 and finished.stderr == ""
    (line,) = (line.split() for line in finished.stdout.splitlines() if "drifted" in line)
    assert line == ["--doc-cap", "10000", "20000", "drifted"]
    assert finished.stdout.rstrip().endswith("rows are not the same")


# Hostile


def trap(place: Path) -> str:
    return f"import pathlib, shutil\npathlib.Path({str(place / 'ran')!r}).touch()\nshutil.rmtree({str(place)!r})\n"


def test_a_file_that_would_delete_everything_is_read_and_not_run(tmp_path):
    bad = trap(tmp_path)
    files = {name: bad + text for name, text in CURRENT.items()}
    for name in (
        "nanochat/__init__.py",
        "scripts/__init__.py",
        "megacontext.py",
        "torch.py",
        "sitecustomize.py",
    ):
        files[name] = bad
    _, off = audit(write(tmp_path, files))
    assert off == []
    finished = run(".", "--json", cwd=tmp_path)
    assert finished.returncode == 0
    assert not (tmp_path / "ran").exists() and (tmp_path / "nanochat" / "gpt.py").exists()


HOSTILE = {
    "a syntax error": (b"x = 1\ndef broken(:\n", "no Python at line 2"),
    "no UTF-8": (b"x = '\xff'\n", "no UTF-8 at byte 5"),
    "a zero byte": (b"x = 1\0", "no Python"),
    "nesting without end": (b"x = " + b"(" * 100_000 + b")" * 100_000, "no Python"),
    "a number without end": (b"x = " + b"9" * 10_000, "no Python"),
    "more than a source has": (b"#" * (1 << 22) + b"\n", "no file of up to"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_python_is_reported_and_the_others_are_read(tmp_path, tool, name):
    content, why = HOSTILE[name]
    found, held = tool.audited(write(tmp_path, CURRENT | {"nanochat/gpt.py": content}))
    (row,) = (row for row in found if row.verdict != "same")
    assert (row.file, row.verdict) == ("nanochat/gpt.py", "unreadable") and why in row.theirs
    assert "scripts/base_train.py" in held


@pytest.mark.parametrize("name", CURRENT)
def test_a_missing_file_is_one_row(tmp_path, tool, name):
    found, _ = tool.audited(write(tmp_path, {one: text for one, text in CURRENT.items() if one != name}))
    (row,) = (row for row in found if row.verdict != "same")
    assert (row.file, row.verdict) == (name, "missing there")


@pytest.mark.parametrize(
    "default",
    [
        "9**9**9",
        "9**64*9**64*1.0*9**64",
        "1/0",
        "(-1)**0.5",
        "1e999",
        "0x" + "f" * 9999,
        "'a'*10**9",
        "again",
        "+".join(["1"] * 900),
        "many30",
        "[red]markup",
    ],
)
def test_a_default_that_cannot_be_worked_out_is_unreadable(tmp_path, tool, default):
    names = ["again = again + 1", "many0 = 1"] + [f"many{n + 1} = many{n} + many{n}" for n in range(30)]
    script = "\n".join([*names, TOK_TRAIN.replace("32768", default.replace("[red]", "other."))])
    found, _ = tool.audited(write(tmp_path, CURRENT | {"scripts/tok_train.py": script}))
    (row,) = (row for row in found if row.verdict != "same")
    assert (row.what, row.verdict) == ("--vocab-size", "unreadable") and len(row.theirs) <= 300


def test_a_class_that_holds_itself_is_reported(tmp_path, tool):
    model = CURRENT_MODEL.replace("self.mlp = MLP(config)", "self.mlp = Block(config)")
    found, _ = tool.audited(write(tmp_path, CURRENT | {"nanochat/gpt.py": model}))
    assert ("stored keys", "unreadable") in {(row.what, row.verdict) for row in found}


def test_what_a_foreign_file_holds_cannot_steer_the_terminal(tmp_path):
    script = TOK_TRAIN.replace("32768", '"\\x1b[2J[bold]\\ud800"')
    finished = run(write(tmp_path, CURRENT | {"scripts/tok_train.py": script}))
    assert finished.returncode == 1 and finished.stderr == ""
    assert "\x1b" not in finished.stdout and "[bold]" in finished.stdout


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_what_is_no_checkout_ends_in_one_sentence(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    finished = run(tmp_path / place)
    assert finished.returncode == 2 and finished.stdout == ""
    assert finished.stderr.count("\n") == 1 and "check the path" in finished.stderr
