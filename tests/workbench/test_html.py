"""The HTML of a page asks for what the page uses, for the large module at once, and for nothing else."""

import re
from urllib.request import urlopen

from serving import Served

from workbench.html import UNUSED_SCRIPTS, deferred, needed, unhurried


def test_scripts_that_no_page_uses_are_left_out_and_the_others_stay_in_their_order() -> None:
    names = [
        "a/es-module-shims.min.js",
        "js/bokeh.min.js?v=1",
        "js/bokeh-gl.min.js?v=2",
        "panel/panel.min.js?v=3",
    ]
    markup = "\n".join(f'<script type="text/javascript" src="static/{name}"></script>' for name in names)
    assert re.findall(r'src="static/([^"]*)"', needed(markup)) == [names[1], names[3]]


def test_the_page_that_is_served_asks_for_the_large_module_before_any_script(served: Served) -> None:
    with urlopen(f"{served.url}?run=finished") as answer:
        page = answer.read().decode()
    scripts = re.findall(r'<script[^>]* src="([^"]*)"', page)
    assert any("panel.min.js" in script for script in scripts)
    assert not any(name in script for script in scripts for name in UNUSED_SCRIPTS)
    (module,) = re.findall(r'<link rel="modulepreload" href="([^"]*)"', page)
    with urlopen(served.url + module.removeprefix("./")) as answer:
        assert len(answer.read()) > 1_000_000
    assert page.index("modulepreload") < page.index("<script")


def test_scripts_and_style_sheets_stand_back_in_their_order() -> None:
    names = ["js/bokeh.min.js?v=1", "panel/panel.min.js?v=3"]
    markup = "\n".join(f'<script type="text/javascript" src="static/{name}"></script>' for name in names)
    level = '<script type="text/javascript">\n  Bokeh.set_log_level("info");\n</script>'
    assert re.findall(r'defer src="static/([^"]*)"', deferred(f"{markup}\n\n{level}\n")) == names
    assert "set_log_level" not in deferred(f"{markup}\n\n{level}\n")
    assert re.findall(
        r'media="print"[^>]* href="(.*?)"', unhurried('<link rel="stylesheet" href="a.css">')
    ) == ["a.css"]


def test_nothing_that_is_served_stands_between_a_browser_and_its_first_paint(served: Served) -> None:
    with urlopen(f"{served.url}?run=finished&view=focus") as answer:
        page = answer.read().decode()
    scripts = re.findall(r'<script[^>]* src="[^"]*"[^>]*>', page)
    assert scripts and all(" defer " in script for script in scripts)
    sheets = re.findall(r'<link rel="stylesheet"[^>]*>', page)
    assert sheets and all('media="print"' in sheet for sheet in sheets)
    said = page[page.index('id="foreword"') :]
    assert "finished" in said and re.search(r'class="chosen">Focus<', said) and 'class="state done"' in said
