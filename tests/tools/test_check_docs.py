"""tools/check_docs.py: the real vault holds, and in small vaults of our own each planted fault is found, alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / "tools" / "check_docs.py"
sys.path.insert(0, str(TOOL.parent))

import check_docs  # noqa: E402
from doccheck.commands import refused, split  # noqa: E402
from doccheck.figures import has_figure  # noqa: E402
from doccheck.pages import read_page, slug  # noqa: E402
from doccheck.places import missing  # noqa: E402

SOUND = """# A note

See [[other]], [[other#Its heading]] and [the page](other.md#its-heading). Run `megacontext bench store --json`.

## Figures
`megacontext eval needles --n 200`, 2 CPU cores, 2026-11-25.

| arm | right |
|---|---|
| lensnet | .960 |
"""
OTHER = "# Another\n\n## Its heading\nNothing.\n"


@pytest.fixture
def vault(tmp_path):
    """A checkout with two sound notes; `write` adds or changes one."""
    (tmp_path / "obsidian" / "results").mkdir(parents=True)

    def write(name: str, text: str) -> Path:
        path = tmp_path / "obsidian" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return tmp_path

    write("note.md", SOUND)
    write("other.md", OTHER)
    return write


def says(root: Path) -> list[str]:
    return list(map(str, check_docs.findings(root)))


def test_the_vault_of_this_checkout_holds():
    assert says(ROOT) == []


@pytest.mark.parametrize("page", ["obsidian/operations/Operations.md", "data/README.md"])
def test_every_recipe_that_ships_is_described(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    recipes = sorted(path.stem for path in (ROOT / "data" / "recipes").glob("*.toml"))
    assert [name for name in recipes if f"`{name}`" not in text] == []


def test_a_sound_vault_has_no_findings(vault):
    assert says(vault("third.md", "# A third\n")) == []


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("[[nobody]]", "[[nobody]] names none"),
        ("[[other#No such heading]]", "has no 'No such heading'"),
        ("[text](gone.md)", "gone.md leads to none"),
        ("[text](other.md#gone)", "other.md#gone names none"),
        ("![picture](images/gone.png)", "images/gone.png is not"),
        ("[text](../../../etc)", "leads to none"),
        ("`megacontext/no/such.py`", "megacontext/no/such.py is not"),
        ("`megacontext conjure`", "`megacontext conjure` does not"),
        ("`megacontext eval no-such-suite`", "no-such-suite"),
        ("`megacontext train no-such-recipe`", "no-such-recipe"),
        ("`megacontext train tiny --set base.no_such_key=1`", "no_such_key"),
        ("`megacontext bench store --no-such-option`", "no-such-option"),
        ("`megacontext chat --dtype float7`", "float7"),
        ("`python notebooks/99_gone.py`", "notebooks/99_gone.py is not"),
        ("`megacontext ask memory 'Who`", "quotes must be closed"),
        ("`eval no-such-suite`", "no-such-suite"),
        ("This part is coming soon.", "'coming soon' promises"),
        ("TODO: say it.", "'TODO' promises"),
    ],
)
def test_a_planted_fault_is_found_with_its_line(vault, planted, said):
    root = vault("note.md", SOUND.replace("See [[other]]", f"See [[other]]\nand {planted}"))
    found = says(root)
    assert len(found) == 1, found
    assert found[0].startswith("obsidian/note.md:4: ") and said in found[0]


@pytest.mark.parametrize(
    ("without", "lacking"),
    [
        ("`megacontext eval needles --n 200`, ", "a command"),
        ("2 CPU cores, ", "a device"),
        ("2026-11-25.", "a date"),
    ],
)
def test_a_table_without_its_source_is_found(vault, without, lacking):
    figures = SOUND.partition("## Figures")[2].replace(without, "")
    (found,) = says(vault("note.md", f"# A note\n\n## Figures{figures}"))
    assert f"lack {lacking};" in found


def test_on_the_pages_of_results_a_bullet_is_a_figure_too(vault):
    (found,) = says(vault("results/Claims.md", "# Claims\n- LensNet answers .93 of them.\n"))
    assert "lack a command, a device, a date" in found and found.startswith("obsidian/results/Claims.md:2:")


def test_a_link_to_a_note_with_its_source_cites_a_figure(vault):
    assert says(vault("results/Claims.md", "# Claims\n- LensNet answers .93 of them ([[note]]).\n")) == []


@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        (".88", True), ("12.5 ms", True), ("-.075 ± .004", True), ("(2304.08467)", False), ("torch 2.13.0", False),
        ("Python 3.11", False), ("220,000 tokens", False), ("tree-1.mdb", False), ("focus.budget", False),
    ],
)  # fmt: skip
def test_what_counts_as_a_figure(text, is_one):
    assert has_figure(text) == is_one


def test_what_a_block_of_python_imports_must_be_there(vault):
    root = vault(
        "third.md", "# A third\n\n```python\nimport os\n\nfrom megacontext.spans import conjure\n```\n"
    )
    (root / "megacontext").mkdir()
    (root / "megacontext" / "spans.py").write_text("def parent(): ...\n")
    (found,) = says(root)
    assert found.startswith("obsidian/third.md:6: ") and "megacontext.spans.conjure" in found


def test_promises_may_stand_under_open_and_in_plans(vault):
    root = vault("note.md", SOUND + "\n## Open\nHistories of 32k tokens: not yet.\n")
    assert says(vault("plans/Ideas.md", "# Ideas\nThis will be built.\n")) == []
    assert says(root) == []


@pytest.mark.parametrize(
    ("line", "holds"),
    [
        ("Status: plan of record, built, measured in part. More words.", True),
        ("Status: plan of record, nearly built, measured.", False),
        ("Status: built, measured.", False),
        ("Status: plan of record, not built, built, measured.", False),
        ("It is going well.", False),
    ],
)
def test_a_plan_of_record_has_a_status_of_the_closed_set(vault, line, holds):
    assert (says(vault("plans/prds/Plan.md", f"# Plan\n\n{line}\n")) == []) == holds


def test_notes_of_one_name_are_refused(vault):
    (found,) = says(vault("results/other.md", OTHER))
    assert "name must be its own" in found


def test_a_notebooks_markdown_is_checked_too(vault):
    root = vault("third.md", "# A third\n")
    (root / "notebooks").mkdir()
    cell = 'import marimo as mo\n\nmo.md(\n    f"""\n    # What?\n\n    See `megacontext conjure {mo}`.\n    """\n)\n'
    (root / "notebooks" / "01_x.py").write_text(cell)
    (found,) = says(root)
    assert found.startswith("notebooks/01_x.py:7: ") and "conjure" in found


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("megacontext bench store | live", ["megacontext bench store", "megacontext bench live"]),
        ("A=b .venv/bin/megacontext chat -i base 'It was'", ["megacontext chat -i base It was"]),
        ("tools/demo --no-serve && python tools/x.py", ["tools/demo --no-serve", "python tools/x.py"]),
        ("megacontext eval needles --model ... --n 200 ...", ["megacontext eval needles --model 1 --n 200"]),
        ("megacontext report runs/demo > page.html", ["megacontext report runs/demo"]),
        ("eval needles --n 200", ["megacontext eval needles --n 200"]),
        ("train=x", []),
        ("train", []),
        ("focus.budget", []),
    ],
)  # fmt: skip
def test_prose_is_split_into_commands(text, commands):
    assert [" ".join(words) for words in split(text, prose=True)] == commands


@pytest.mark.parametrize(
    "text",
    [
        "megacontext train RECIPE --set KEY=VALUE",
        "megacontext eval SUITE --seeds S",
        "megacontext memory refresh",
        "megacontext memory",
        "megacontext report runs/RUN",
        "torchrun --nproc_per_node=8 -m megacontext train eight-gpus-d20 --plan",
        "python -m workbench.bench.tree --json",
        "python kernels/bench/attention.py --rounds 5",
        "tools/test tests/focus -k budget",
    ],
)
def test_prose_may_stop_early_and_name_what_is_the_readers(text):
    assert [refused(ROOT, words, prose=True) for words in split(text, prose=True)] == [None]


def test_a_script_must_know_its_options():
    words = ["python", "notebooks/01_first_light.py", "--budget", "256"]
    assert refused(ROOT, words, prose=False) is None
    assert "knows no --no-such-option" in refused(ROOT, [*words, "--no-such-option"], prose=False)


def test_a_block_of_code_must_be_whole():
    assert "required" in refused(ROOT, ["megacontext", "memory", "refresh"], prose=False)


@pytest.mark.parametrize(
    ("text", "is_there"),
    [
        ("megacontext/spans.py", True), ("focus/allocator.py", True), ("kernels/bench/{counting,device}.py", True),
        ("data/recipes/*.toml", True), ("runs/demo/anything", True), ("kernels/megakernels/<operation>/api.py", True),
        ("tests/test_layers.py::test_no_such", False), ("megacontext.config.fingerprint", True), ("a/b testing", True),
        ("megacontext.config.conjure", False), ("focus/conjurer.py", False), ("data/recipes/no-*.toml", False),
    ],
)  # fmt: skip
def test_what_prose_names_must_be_there(text, is_there):
    assert (missing(ROOT, text) is None) == is_there


def test_headings_become_anchors_as_github_makes_them(tmp_path):
    assert slug("What `k` costs, by level: 1 & 2") == "what-k-costs-by-level-1--2"
    page = tmp_path / "a.md"
    page.write_text("# One\n\n## Two `three`\n")
    assert {"one", "two-three", "two three"} <= read_page(tmp_path, page).anchors()


def test_the_command_says_where_and_ends_with_1(vault):
    root = vault("note.md", SOUND.replace("[[other]]", "[[nobody]]"))
    done = subprocess.run(
        [sys.executable, str(TOOL), "--json", "--root", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)
    assert (found["path"], found["line"]) == ("obsidian/note.md", 3) and "[[nobody]]" in found["says"]
