"""Imports point down only: every import of our own code is read from the sources and held against one table.

The table is the house of the design: a part may import parts of a lower row, and of its own row only where
the table says so. Imports inside functions count too; an import for type checking counts like any other,
because it is the same dependency of thought.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("megacontext", "workbench", "notebooks", "kernels")

ROWS: list[set[str]] = [
    {"megakernels", "megacontext.errors", "megacontext.spans"},
    {"megacontext.telemetry", "megacontext.config", "megacontext.registry", "megacontext.progress"},
    {"megacontext.tokenizer", "megacontext.sources"},
    {"megacontext.gistnet", "megacontext.attention", "megacontext.tasks", "megacontext.corpus"},
    {"megacontext.focus", "megacontext.tree", "megacontext.lensnet"},
    {"megacontext.models", "megacontext.index"},
    {"megacontext.scoring"},
    {"megacontext.runtime"},
    {"megacontext.train", "megacontext.evals", "megacontext.bench"},
    {"megacontext.cli"},
    {"megacontext.__main__"},
    {"workbench"},
    {"notebooks"},
]
LAYER = {part: row for row, parts in enumerate(ROWS) for part in parts}
WITHIN_A_ROW = {
    ("megacontext.spans", "megacontext.errors"),
    ("megacontext.gistnet", "megacontext.attention"),
    # Training measures itself by the evaluations; never the other way round.
    ("megacontext.train", "megacontext.evals"),
}
# Stores compute, views draw, state selects: what a part of the workbench never imports.
DRAWING = {
    "panel",
    "panel_material_ui",
    "bokeh",
    "holoviews",
    "workbench.plots",
    "workbench.views",
    "workbench.page",
}
WORKBENCH = {
    "workbench.stores": DRAWING | {"workbench.state", "workbench.desk"},
    "workbench.state": DRAWING,
    "workbench.desk": DRAWING,
    "workbench.plots": {"panel", "workbench.stores", "workbench.state", "workbench.desk", "workbench.views"},
    "workbench.views": {"workbench.page", "workbench.server"},
}
TORCH_FREE = {"megacontext.focus", "megacontext.tree", "megacontext.index", "megacontext.telemetry"}
TORCH = {"torch", "torchvision", "triton", "megakernels", "safetensors.torch"}
PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
# nanochat keeps its vocabulary as a pickle. One module reads and writes it, lists the opcodes before it unpickles, and
# admits tiktoken's class alone; tests/models/checkpoint/test_nanochat_vocabulary.py throws hostile pickles at it.
READS_PICKLES = "megacontext.models.checkpoint.vocabulary"


class Import(NamedTuple):
    """A module that a file imports, in full, and the line that does."""

    module: str
    line: int


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every module that `source`, the text of `module`, imports. `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                # One dot is the package that holds the module, each further dot the one above.
                package = module.split(".") if is_package else module.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [node.module])])
            yield from (Import(f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield Import(node.args[0].value, node.lineno)


def is_inside(module: str, packages: set[str]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def part_of(module: str) -> str | None:
    """The part of our house that holds `module`: None for foreign modules, KeyError for one without a row."""
    first, *rest = module.split(".")
    if first == "megacontext":
        if not rest:
            return None  # the bare package holds nothing
        part = f"megacontext.{rest[0]}"
        if part not in LAYER:
            raise KeyError(f"{part} has no row in the table of layers; give it one in tests/test_layers.py")
        return part
    return first if first in LAYER else None


def complaints(source: str, module: str, is_package: bool = False) -> list[str]:
    """One sentence for each import of `module` that the table forbids."""
    own, found = part_of(module), []
    for target, line in imports_of(source, module, is_package):
        place = f"{module}, line {line}:"
        other = part_of(target)
        if own == "megakernels" and other != own and target.split(".")[0] in SOURCES:
            found.append(f"{place} kernels know tensors only, but import {target}")
        elif (
            own and other and other != own and LAYER[other] >= LAYER[own] and (own, other) not in WITHIN_A_ROW
        ):
            direction = "climbs" if LAYER[other] > LAYER[own] else "goes sideways"
            found.append(f"{place} the import of {target} {direction}; imports point down only")
        if own in TORCH_FREE and is_inside(target, TORCH):
            found.append(f"{place} {own} stays free of torch, but imports {target}")
        for place_of, never in WORKBENCH.items():
            if is_inside(module, {place_of}) and is_inside(target, never):
                found.append(
                    f"{place} {place_of} never imports {target}: stores compute, views draw, state selects"
                )
        if is_inside(target, PICKLES) and module != READS_PICKLES:
            found.append(
                f"{place} nothing imports {target.split('.')[0]}: reading a pickle runs what it holds"
            )
    return found


def module_of(path: Path) -> tuple[str, bool]:
    """Dotted name of a source file, and whether it is a package. kernels/ is a folder, no package."""
    names = path.relative_to(ROOT).with_suffix("").parts
    names = names[1:] if names[0] == "kernels" and len(names) > 1 else names
    is_package = names[-1] == "__init__"
    return ".".join(names[:-1] if is_package else names), is_package


def source_files() -> list[Path]:
    return sorted(path for folder in SOURCES for path in (ROOT / folder).rglob("*.py"))


def test_no_import_of_the_house_climbs():
    found = []
    for path in source_files():
        module, is_package = module_of(path)
        found += complaints(path.read_text(encoding="utf-8"), module, is_package)
    assert not found, "\n".join(found)


def test_the_checker_reads_the_sources_that_there_are():
    modules = {module_of(path)[0] for path in source_files()}
    assert {
        "megacontext",
        "megacontext.errors",
        "megacontext.telemetry",
        "megacontext.telemetry.writer",
    } <= modules


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("megacontext.spans", "from megacontext.tree import Memory", "climbs"),
        ("megacontext.spans", "import megacontext.tree.memory", "climbs"),
        ("megacontext.spans", "from megacontext import tree", "climbs"),
        ("megacontext.tree.store", "from ..runtime import session", "climbs"),
        ("megacontext.tree.store", "def late():\n    import megacontext.cli.main", "climbs"),
        (
            "megacontext.tree.store",
            "import importlib\nimportlib.import_module('megacontext.models')",
            "climbs",
        ),
        ("megacontext.cli.main", "import workbench.page", "climbs"),
        ("workbench.page", "from notebooks import first", "climbs"),
        ("megacontext.focus.context", "from megacontext.tree import Memory", "goes sideways"),
        ("megacontext.tree.memory", "from megacontext.lensnet.lens import LensNet", "goes sideways"),
        ("megacontext.index.addresses", "from megacontext.models import gpt", "goes sideways"),
        ("megacontext.tree.forgetting", "from megacontext.index import AddressIndex", "climbs"),
        ("megacontext.index.addresses", "import torch", "free of torch"),
        ("megacontext.attention.rotary", "from megacontext.gistnet import gist", "goes sideways"),
        ("megacontext.tasks.facts", "from megacontext.attention import rotary", "goes sideways"),
        ("megacontext.errors", "from megacontext.spans import Node", "goes sideways"),
        ("megacontext.evals.arms", "from megacontext.train import base", "goes sideways"),
        ("megacontext.focus.context", "import torch.nn", "free of torch"),
        ("megacontext.tree.memory", "from torch import Tensor", "free of torch"),
        (
            "megacontext.telemetry.writer",
            "if True:\n    from safetensors.torch import save_file",
            "free of torch",
        ),
        ("megacontext.focus.context", "import megakernels", "free of torch"),
        ("megakernels.gather.api", "from megacontext.errors import ShapeError", "kernels know tensors only"),
        ("workbench.page", "import pickle", "nothing imports pickle"),
        ("megacontext.train.base", "from pickle import loads", "nothing imports pickle"),
        ("megacontext.models.checkpoint.loading", "import pickle", "nothing imports pickle"),
        (READS_PICKLES, "from megacontext.runtime import session", "climbs"),
        ("workbench.stores.run", "import panel as pn", "stores compute"),
        ("workbench.plots.tree", "from workbench.stores.run import RunStore", "stores compute"),
    ],
)
def test_a_planted_import_is_caught(module: str, source: str, complaint: str):
    (found,) = complaints(source, module)
    assert complaint in found and module in found


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("megacontext.tree.store", "from megacontext.errors import ShapeError"),
        ("megacontext.tree.store", "from .encoder import GistEncoder\nfrom ..errors import ShapeError"),
        ("megacontext.gistnet.gist", "from megacontext.attention.encoder import EncoderLayer"),
        ("megacontext.attention.mega", "import megakernels.gather"),
        ("megacontext.tree.store", "from safetensors.numpy import save\nimport torchless, pickleball"),
        ("notebooks.first", "import workbench.plots, megacontext.cli.main"),
        (READS_PICKLES, "import pickle"),
    ],
)
def test_an_import_that_points_down_passes(module: str, source: str):
    assert complaints(source, module) == []


def test_a_package_counts_its_dots_from_itself():
    assert list(imports_of("from . import store", "megacontext.tree", is_package=True)) == [
        Import("megacontext.tree.store", 1)
    ]
    assert list(imports_of("from ..focus import plan", "megacontext.tree", is_package=True)) == [
        Import("megacontext.focus.plan", 1)
    ]


def test_a_part_without_a_row_is_asked_to_take_one():
    with pytest.raises(KeyError, match=r"megacontext\.manager has no row"):
        complaints("from megacontext.manager import Manager", "workbench.page")


@pytest.mark.parametrize("part", sorted(TORCH_FREE))
def test_importing_a_torch_free_part_does_not_load_torch(part: str):
    """The same rule through everything that the part imports in turn, foreign packages included."""
    program = f"import sys, {part}; sys.exit('torch was loaded' if 'torch' in sys.modules else 0)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
