"""Who may see the pages of a server that is reached from elsewhere: whoever brings its token.

The token comes once, in the address that the server prints or in a form, and from then on as a cookie that no script
reads and no other site can use. Without it every page leads to the form, and the connection that feeds a page is
refused.
"""

from __future__ import annotations

import hmac
from typing import Any
from urllib.parse import quote

from bokeh.server.auth_provider import AuthProvider
from markupsafe import Markup
from tornado.web import RequestHandler

from workbench.palette import DARK, FONT

LOGIN = "/login"
LEAST_TOKEN_CHARACTERS = 12
"""Fewer could be guessed by trying."""
COOKIE = "megacontext-workbench"
COOKIE_DAYS = 30
_FORM = Markup("""<!doctype html><html lang="en"><meta charset="utf-8"><title>MegaContext workbench</title>
<meta name="viewport" content="width=device-width"><style>
body {{ background: {ground}; color: {text}; font: 16px/1.5 {font}; display: grid; place-items: center;
  min-height: 90vh }}
input, button {{ font: inherit; padding: 8px 12px; border-radius: 6px; border: 1px solid {line};
  background: {surface}; color: inherit }}
</style><form method="post"><p>{said}</p><label>Token <input name="token" type="password" autofocus required></label>
<button>Open the workbench</button></form></html>""")


class TokenAsked(AuthProvider):
    """Lets in whoever has the token."""

    def __init__(self, token: str):
        self._token = token
        super().__init__()

    @property
    def get_user(self) -> Any:
        """From a request: a name for whoever may see the pages, None for anybody else."""
        return lambda handler: "reader" if self._knows(handler.get_cookie(COOKIE) or "") else None

    @property
    def get_user_async(self) -> None:
        """None: knowing a token takes no time."""
        return None

    @property
    def login_url(self) -> str:
        """Where everybody else is led."""
        return LOGIN

    @property
    def get_login_url(self) -> None:
        """None: it is always the same."""
        return None

    @property
    def login_handler(self) -> type[RequestHandler]:
        """The form, and the address that brings the token along."""
        knows, token = self._knows, self._token

        class Login(RequestHandler):
            def get(self) -> None:
                given = self.get_query_argument("token", "")
                self._let_in(given) if given else self._ask("This workbench asks for its token.")

            def post(self) -> None:
                self._let_in(self.get_body_argument("token", ""))

            def _let_in(self, given: str) -> None:
                if not knows(quote(given)):
                    self.set_status(403)
                    self._ask(
                        "That is not the token of this workbench; it stands where the workbench was started."
                    )
                    return
                self.set_cookie(
                    COOKIE, quote(token), httponly=True, samesite="Strict", expires_days=COOKIE_DAYS, path="/"
                )
                self.redirect(_own(self.get_query_argument("next", "/")))

            def _ask(self, said: str) -> None:
                self.set_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
                self.finish(str(_FORM.format(said=said, font=Markup(FONT), **DARK)))

        return Login

    @property
    def logout_url(self) -> None:
        """None: cookies end by themselves."""
        return None

    @property
    def logout_handler(self) -> None:
        """None, as `logout_url`."""
        return None

    def _knows(self, given: str) -> bool:
        """Whether that is the token, as it stands in a cookie."""
        return hmac.compare_digest(given.encode(), quote(self._token).encode())


def _own(place: str) -> str:
    """Where somebody wanted to go, if that is on this server; else its first page."""
    return place if place.startswith("/") and not place.startswith(("//", "/\\")) else "/"
