"""A server that asks for a token lets nobody in without it: neither to a page nor to what feeds one."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from serving import started

from megacontext.errors import ConfigError
from workbench.admission import COOKIE
from workbench.server import serve
from workbench.stores.library import Library

TOKEN = "a token with spaces & marks"
SERVE = """
import sys
from workbench.server import serve
from workbench.stores.library import Library
serve(Library(sys.argv[1]), port=0, address="0.0.0.0", token=sys.argv[2], on_ready=lambda url: print(url, flush=True))
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    process = started(SERVE, str(tmp_path_factory.mktemp("guarded")), TOKEN)
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=20)


def asked(url: str, path: str, cookie: str = "", **headers: str) -> http.client.HTTPResponse:
    port = int(url.split("/")[2].rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=headers | ({"Cookie": cookie} if cookie else {}))
    return connection.getresponse()


def test_the_printed_address_lets_in_and_the_cookie_is_for_this_site_alone(guarded: str) -> None:
    answer = asked(guarded, guarded.partition("0.0.0.0:")[2].partition("/")[2].join(("/", "")))
    cookie = answer.getheader("Set-Cookie")
    assert answer.status == 302 and cookie.startswith(COOKIE)
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
    assert asked(guarded, "/", cookie.partition(";")[0]).status == 200


@pytest.mark.parametrize("cookie", ["", f"{COOKIE}=guess", f"{COOKIE}="])
def test_without_the_token_there_is_the_form_and_no_connection(guarded: str, cookie: str) -> None:
    page = asked(guarded, "/", cookie)
    assert page.status == 302 and page.getheader("Location").startswith("./login")
    upgrade = {
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": "http://0.0.0.0",
    }  # fmt: skip
    assert asked(guarded, "/ws", cookie, **upgrade).status in (401, 403)


@pytest.mark.parametrize(
    ("wanted", "led_to"),
    [("/?run=a&step=2", "/?run=a&step=2"), ("//elsewhere.example", "/"), ("http://x", "/")],
)
def test_after_the_token_comes_the_page_that_was_wanted_and_no_other_site(
    guarded: str, wanted: str, led_to: str
) -> None:
    answer = asked(guarded, f"/login?{urlencode({'token': TOKEN, 'next': wanted})}")
    assert answer.getheader("Location") == led_to


def test_a_wrong_token_is_refused_and_the_form_runs_no_script(guarded: str) -> None:
    answer = asked(guarded, "/login?token=%3Cscript%3E")
    assert answer.status == 403 and "default-src 'none'" in answer.getheader("Content-Security-Policy")
    assert "<script" not in answer.read().decode()
    assert asked(guarded, "/login").status == 200


def test_other_addresses_want_a_token_and_a_token_is_not_short(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        serve(Library(tmp_path), address="0.0.0.0")
    with pytest.raises(ConfigError, match="at least 12"):
        serve(Library(tmp_path), address="0.0.0.0", token="short")
