"""What the report shows -> one HTML page that carries its style, its script and its data."""

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
    """The template filled in. Its policy lets a browser run this script alone and load nothing."""
    style, script = (_text(name) for name in ("report.css", "report.js"))
    parts = {
        "title": html.escape(f"ramnas: {report.title}"),
        "style": style,
        "style_hash": _hash(style),
        "script": script,
        "script_hash": _hash(script),
        "data": in_html(msgspec.json.encode(report).decode()),
    }
    # in one pass: what is filled in is never looked at again
    filled = re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("report.html"))
    return filled.encode()


def in_html(json: str) -> str:
    """The same JSON without `<`: no `</script>` or `<!--` of a name ends or opens anything."""
    return json.replace("<", "\\u003c")


def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names an inline style or script."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
