"""The server of the workbench: its address, who may reach it, and its end.

It listens on this machine only, because whoever reaches it can read the runs. On another address it asks for a token
once, and the browser keeps it as a cookie.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import panel as pn
from tornado.httpclient import AsyncHTTPClient, HTTPClientError
from tornado.websocket import WebSocketClosedError

from megacontext.errors import ConfigError
from workbench.admission import COOKIE, LEAST_TOKEN_CHARACTERS, LOGIN, TokenAsked
from workbench.page import TITLE, build_page
from workbench.state import Selection
from workbench.stores.library import Library


def serve(
    library: Library,
    run_name: str | None = None,
    port: int = 0,
    address: str = "127.0.0.1",
    token: str = "",
    open_browser: bool = False,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serve the workbench until Ctrl-C (or SIGTERM), then return. `on_ready` gets the address once it answers.

    Port 0 takes a free one. Raises ConfigError for an address that is not this machine's own without a `token`, for a
    port that is taken, and for a `run_name` that is no run.
    """
    if not (_is_loopback(address) or token):
        raise ConfigError(
            "the workbench shows runs to whoever reaches it, so without a token it listens on a loopback address only, "
            f"got {address!r}; give --token, or use 127.0.0.1 and an SSH tunnel"
        )
    if token and len(token) < LEAST_TOKEN_CHARACTERS:
        raise ConfigError(
            f"a token must have at least {LEAST_TOKEN_CHARACTERS} characters, got {len(token)}; make a longer one"
        )
    if run_name is not None:
        library.run(run_name)
    port = _free_port(address, port)
    host = f"[{address}]" if ":" in address else address
    query = Selection(run=run_name).to_query() if run_name else ""
    url = f"http://{host}:{port}/{query}"
    if token:
        url = f"http://{host}:{port}{LOGIN}?token={quote(token)}"
    # Whoever gave an address may call it by any name. Then the cookie, which other sites cannot use, is what counts.
    origins = [f"{host}:{port}", f"localhost:{port}"] if _is_loopback(address) else ["*"]
    server = pn.serve(
        {"/": lambda: build_page(library, run_name)}, port=port, address=address, start=False, show=False,
        title=TITLE, websocket_origin=origins, verbose=False,
        # A page that is gone is forgotten soon, so that an open workbench keeps its size; one that a slow browser is
        # still loading is not.
        check_unused_sessions=10_000, unused_session_lifetime=60_000,
        **({"auth_provider": TokenAsked(token)} if token else {}),
    )  # fmt: skip

    def ready() -> None:
        if on_ready is not None:
            on_ready(url)
        if open_browser:
            server.show("/")
        else:
            server.io_loop.add_callback(_warm, f"http://{host}:{port}/", token)

    server.io_loop.asyncio_loop.set_exception_handler(_quiet_about_closed_pages)
    # The same of messages that were on their way to it: Bokeh warns of each while it waits for the page to come back.
    logging.getLogger("bokeh.server.views.ws").setLevel(logging.ERROR)
    try:
        with _ended_by_signals(server.io_loop):
            server.start()
            server.io_loop.add_callback(ready)
            server.io_loop.start()
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
        library.close()


async def _warm(url: str, token: str) -> None:
    """Ask for a page for nobody: the first one costs a second more than the next, which no reader need wait for."""
    headers = {"Cookie": f"{COOKIE}={quote(token)}"} if token else {}
    # One that does not come in time is no news: the reader waits for his own.
    with contextlib.suppress(HTTPClientError):
        await AsyncHTTPClient().fetch(url, headers=headers)


def _quiet_about_closed_pages(loop: Any, context: dict[str, Any]) -> None:
    """A page that is closed while the server still speaks to it is no news for the terminal."""
    if not isinstance(context.get("exception"), WebSocketClosedError):
        loop.default_exception_handler(context)


@contextlib.contextmanager
def _ended_by_signals(loop: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the loop between two pieces of work: raised inside of one, they may be lost there.

    Where no handler can be set, in another thread or on Windows, Python's own is left.
    """
    ending = []
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            loop.asyncio_loop.add_signal_handler(number, loop.stop)
            ending.append(number)
    try:
        yield
    finally:
        for number in ending:
            loop.asyncio_loop.remove_signal_handler(number)


def _is_loopback(address: str) -> bool:
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _free_port(address: str, port: int) -> int:
    """`port`, or a free one for 0. The server needs it beforehand, to know which origins it may answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            if sys.platform != "win32":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return probe.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ConfigError(
            f"the workbench needs a free port, {address}:{port} is not ({error}); use --port 0"
        ) from None
