"""Facts about `megacontext notebooks` and `megacontext report`: what fails is told, what is kept is found, on toys."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megacontext.errors import ConfigError
from workbench.commands import Report
from workbench.notebook_commands import Check, Export, Run
from workbench.notebook_runner import find_notebooks

TOY = '''import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="97 · A toy")

with app.setup:
    import json
    import time
    from dataclasses import dataclass
    from pathlib import Path

    import marimo as mo
    import polars as pl

    from workbench.notebook import arguments, kept, offline, sent, shown
    from workbench.plots import intervals

    @dataclass(frozen=True, kw_only=True)
    class ToyConfig:
        number: int = 1
        rest_s: float = 0.0


@app.cell(hide_code=True)
def opening():
    mo.md("""
    # 97 · A toy

    **Question.** Is <b>one</b> more than nothing?
    """)
    return


@app.cell
def controls():
    default = arguments(dict(number=1), number=2, rest_s=0.0)
    form = mo.md("{number}").batch(number=mo.ui.number(1, 9, value=default["number"])).form()
    form
    return default, form


@app.cell
def counting(default, form):
    asked = sent(form, default)

    def count(run):
        print("counting")
        time.sleep(asked["rest_s"])
        run.results({"number": asked["number"]})

    run = kept(__file__, ToyConfig(number=asked["number"], rest_s=asked["rest_s"]), count)
    number = json.loads((run / "results.json").read_text())["number"]
    return (number,)


@app.cell
def picture(number):
    row = {"label": "toys", "series": "one", "mean": 1.0, "low": 0.5, "high": 1.5, "n": 2}
    mo.vstack([
        mo.md("## Seen"),
        shown(pl.DataFrame({"name": ["a<b>", "c"], "count": [number, 12345]})),
        offline(intervals(pl.DataFrame([row]), "much")),
    ])
    return


@app.cell
def test_number(number):
    assert number > 0, "nothing was counted"
    print({"number": number})
    return


if __name__ == "__main__":
    app.run()
'''


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    path = tmp_path / "97_toy.py"
    path.write_text(TOY, encoding="utf-8")
    return path


def planted(toy: Path, instead_of: str, what: str) -> str:
    """A copy with something else in one place; its path."""
    assert instead_of in TOY
    path = toy.with_name("98_planted.py")
    path.write_text(TOY.replace(instead_of, what), encoding="utf-8")
    return str(path)


@pytest.mark.slow
def test_an_export_is_one_page_with_words_table_and_figure(toy: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert Export((str(toy),), out=out, runs=tmp_path / "runs", json=True).run() == 0
    (told,) = json.loads(capsys.readouterr().out)["notebooks"]
    assert (told["state"], told["said"], told["title"]) == ("done", "{'number': 2}", "97 · A toy")
    page = (out / "97_toy.html").read_text(encoding="utf-8")
    assert "Is <b>one</b> more than nothing?" in page
    assert "a&lt;b&gt;" in page and "12,345" in page
    assert "data-root-id" in page and "--number 2" in page
    assert [path.name for path in out.iterdir()] == ["97_toy.html"]


@pytest.mark.long
def test_a_page_that_would_come_out_the_same_is_left_and_any_other_made(
    toy: Path, tmp_path: Path, capsys
) -> None:
    out, runs = tmp_path / "out", tmp_path / "runs"
    page = out / "97_toy.html"

    def exported(**more: object) -> dict:
        """What is told of an export, and whether the page is another file than before."""
        before = page.stat().st_ino if page.exists() else 0
        assert Export((str(toy),), out=out, runs=runs, json=True, **more).run() == 0
        (told,) = json.loads(capsys.readouterr().out)["notebooks"]
        assert told["unchanged"] == (page.stat().st_ino == before)
        return told

    first, second = exported(), exported()
    assert not first["unchanged"] and second["unchanged"]
    kept = ("said", "title", "question", "runs", "report")
    assert [first[name] for name in kept] == [second[name] for name in kept] and second["runs"]
    assert not exported(set=(("number=3",),))["unchanged"]
    toy.write_text(TOY + "# a change\n", encoding="utf-8")
    assert not exported()["unchanged"] and exported()["unchanged"]
    shutil.rmtree(exported()["runs"][0])
    assert not exported()["unchanged"]
    page.write_text(page.read_text(encoding="utf-8").replace("made-from", "made"), encoding="utf-8")
    assert not exported()["unchanged"]
    assert not exported(anew=True)["unchanged"]
    assert not exported()["unchanged"]  # one that was asked for anew says nothing of what it was made from


@pytest.mark.long
def test_a_second_run_finds_the_first_until_recipe_or_code_change(toy: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    def made(*given: object, **more: object) -> int:
        assert Run((str(toy),), runs=runs, **more).run() == 0
        return len(list(runs.iterdir()))

    assert (made(), made()) == (1, 1)
    assert made(set=(("number=3",),)) == 2
    toy.write_text(TOY + "# a change\n", encoding="utf-8")
    assert (made(), made()) == (3, 3)
    assert made(anew=True) == 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instead_of", "what", "said"),
    [
        ('print("counting")', 'raise RuntimeError("planted")', "RuntimeError: planted"),
        ("assert number > 0", "assert number > 9", "AssertionError: nothing was counted"),
        ('mo.md("## Seen")', "mo.ui.slider(1, 9)", "shows a <marimo-ui-element>, which is blank"),
        ("    return (number,)", "    number = 4\n    return (number,)\n\n\n@app.cell\ndef again():\n    number = 5\n"
         "    return", "nique across cells"),
    ],
)  # fmt: skip
def test_what_is_broken_fails_the_check_and_is_told(toy: Path, capsys, instead_of, what, said) -> None:
    assert Check((planted(toy, instead_of, what),)).run() == 1
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_after_a_failure_nothing_more_is_started(toy: Path, tmp_path: Path, capsys) -> None:
    broken = planted(toy, "number > 0", "number > 9")
    assert Run((broken, str(toy)), jobs=1, runs=tmp_path / "runs", json=True).run() == 1
    states = [one["state"] for one in json.loads(capsys.readouterr().out)["notebooks"]]
    assert states == ["failed", "not run"]


@pytest.mark.slow
def test_an_interrupt_leaves_no_page_and_no_run_that_passes_for_a_result(toy: Path, tmp_path: Path) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    code = (
        "import sys\nfrom pathlib import Path\nfrom workbench.notebook_commands import Export\n"
        "Export((sys.argv[1],), out=Path(sys.argv[2]), runs=Path(sys.argv[3]), set=(('rest_s=60',),)).run()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, toy, out, runs], stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 120
        while not list(runs.glob("*/run.json")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    assert list(out.iterdir()) == []
    (state,) = [json.loads(path.read_text())["status"] for path in runs.glob("*/run.json")]
    assert state == "interrupted" and not list(runs.glob("*/notebook.json"))


def test_a_notebook_that_is_none_is_told_with_those_that_are():
    with pytest.raises(ConfigError, match="got '77'; known are 01_first_light"):
        find_notebooks(["77"])
    assert [path.stem for path in find_notebooks(["01", "01_first_light"])] == ["01_first_light"]


def test_a_report_is_of_one_thing_or_of_all(tmp_path: Path) -> None:
    for report in (Report(), Report("01", site=tmp_path)):
        with pytest.raises(ConfigError, match="name one of them"):
            report.run()


@pytest.mark.slow
def test_a_site_holds_every_report_and_an_index_that_links_to_them(
    toy: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("workbench.site.find_notebooks", lambda names: [toy])
    site, runs = tmp_path / "site", tmp_path / "runs"
    (runs / "torn").mkdir(parents=True)
    (runs / "torn" / "run.json").write_text("{", encoding="utf-8")
    assert Report(site=site, runs=runs).run() == 0
    assert capsys.readouterr().out.strip() == str(site / "index.html")
    index = (site / "index.html").read_text(encoding="utf-8")
    assert "Is one more than nothing?" in index and "torn" in index
    for page in ("notebooks/97_toy.html", "runs/97-toy.html"):
        assert f'href="{page}"' in index and (site / page).is_file()
    assert not (site / "runs" / "torn.html").exists()
