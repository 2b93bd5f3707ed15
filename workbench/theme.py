"""Both themes of the page for Material UI: neutral bar, hairlines, fonts of the reader's system."""

from __future__ import annotations

from typing import Any

from workbench.palette import DARK, FONT, LIGHT


def theme() -> dict[str, Any]:
    """The themes, by name."""
    return {"light": _one(LIGHT), "dark": _one(DARK)}


def _one(colours: dict[str, str]) -> dict[str, Any]:
    return {
        "palette": {
            "primary": {"main": colours["accent"]},
            "background": {"default": colours["ground"], "paper": colours["surface"]},
            "text": {"primary": colours["text"], "secondary": colours["muted"]},
            "divider": colours["line"],
        },
        "typography": {"fontFamily": FONT, "fontSize": 14, "h3": {"fontSize": 18, "fontWeight": 600}},
        "shape": {"borderRadius": 8},
        "components": {
            "MuiAppBar": {
                "styleOverrides": {
                    "root": {
                        "backgroundColor": colours["surface"], "backgroundImage": "none", "boxShadow": "none",
                        "color": colours["text"], "borderBottom": f"1px solid {colours['line']}",
                        "& .title": {"color": colours["text"]},
                    }
                }
            },
            "MuiDrawer": {"styleOverrides": {"paper": {"backgroundImage": "none"}}},
            "MuiButton": {"styleOverrides": {"root": {"textTransform": "none"}}},
            "MuiToggleButton": {"styleOverrides": {"root": {"textTransform": "none", "whiteSpace": "nowrap"}}},
            "MuiTab": {"styleOverrides": {"root": {"textTransform": "none", "fontWeight": 500}}},
        },
    }  # fmt: skip
