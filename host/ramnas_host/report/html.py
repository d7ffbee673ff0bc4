"""What the report shows -> one HTML page that contains its style, its script and its data."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ramnas_host.report.contents import Report

_FOLDER = Path(__file__).parent / "assets"


def page(report: Report) -> bytes:
    """Fill in the template.

    The page's Content-Security-Policy allows this one script and style, and loads nothing else.
    """
    style, script = (_text(name) for name in ("report.css", "report.js"))
    parts = {
        "title": html.escape(f"ramnas: {report.title}"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": in_html(msgspec.json.encode(report).decode()),
    }
    # in one pass, so that braces inside the filled-in text are never replaced
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("report.html"))
    return filled.encode()


def in_html(json: str) -> str:
    """The same JSON without any `<`, so that no name can end the script or open a comment."""
    return json.replace("<", "\\u003c")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
