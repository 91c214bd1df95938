"""The pieces of HTML that the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lapa.reporting.page import span


def section(title: str, *parts: str) -> str:
    """A headed section of HTML parts; empty ones are left out."""
    return f"<section><h2>{escape(title)}</h2>\n" + "\n".join(part for part in parts if part) + "</section>"


def say(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> str:
    """Cells are HTML; those that begin with a digit or sign are set as figures."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def range_of(ci: Sequence[float], sign: str = "") -> str:
    """An interval, set small beside its figure."""
    return f'<span class="range">{span(ci, sign)}</span>'
