"""Self-contained pages from Jinja templates: everything is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from corpora.store.files import write_text
from lapa.reporting import figures
from lapa.reporting.scores import figure, span

HERE = Path(__file__).parent
"""Of base.html.j2, which pages of other rooms extend too."""


def render(template: str | Path, **context: Any) -> str:
    """The page of a template, a file of this folder or a path. A name that the context lacks is an error."""
    path = HERE / template
    environment = Environment(
        loader=FileSystemLoader([path.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figure": figure, "span": span, "svg": figures.svg}
    environment.globals |= {
        "strip": figures.strip,
        "change_image": figures.change_image,
        "usage_bars": figures.usage_bars,
        "label_curves": figures.label_curves,
    }
    return environment.get_template(path.name).render(context)


def write_page(path: Path, template: str | Path, **context: Any) -> None:
    """Writes the page whole or not at all, under a temporary name first."""
    write_text(path, render(template, **context))
