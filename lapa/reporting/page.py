"""Self-contained pages from Jinja templates: everything is escaped, and nothing is loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from corpora.store.files import write_text
from lapa.reporting import figures, map_page
from lapa.reporting.atlas import position_name
from lapa.reporting.palette import colours_of
from lapa.reporting.scores import figure, span

HERE = Path(__file__).parent
"""Of base.html.j2, which pages of other rooms extend too."""
LEAST_CONTENTS = 4
"""With fewer sections a page has no table of contents."""
_SECTION = re.compile(r"<section([^>]*)>\s*<h2>(.*?)</h2>", re.S)


def render(template: str | Path, **context: Any) -> str:
    """The page of a template, a file of this folder or a path, with a table of contents behind its header. A name that the
    context lacks is an error."""
    path = HERE / template
    environment = Environment(
        loader=FileSystemLoader([path.parent, HERE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":")}
    environment.filters |= {
        "figure": figure,
        "span": span,
        "svg": figures.svg,
        "numbered": lambda count: [str(k) for k in range(count)],
    }
    environment.globals |= {
        "strip": figures.strip,
        "change_image": figures.change_image,
        "usage_bars": figures.usage_bars,
        "label_curves": figures.label_curves,
        "colours_of": colours_of,
        "shares": lambda counts: [count / max(1, sum(counts)) for count in counts],
        "position_name": position_name,
        **{name: getattr(map_page, name) for name in MAP},
    }
    return with_contents(environment.get_template(path.name).render(context))


MAP = ("map_svg", "map_data", "map_videos", "map_script", "colour_class", "playable")


def with_contents(page: str) -> str:
    """The page, each section of which has a name, and links to them behind the header."""
    names: list[str] = []
    titles: list[str] = []

    def named(found: re.Match[str]) -> str:
        titles.append(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", found[2])).strip())
        plain = re.sub(r"[^a-z0-9]+", "-", titles[-1].lower()).strip("-") or "section"
        names.append(plain if plain not in names else f"{plain}-{len(names)}")
        return f'<section id="{names[-1]}"{found[1]}><h2>{found[2]}</h2>'

    page = _SECTION.sub(named, page)
    if len(titles) < LEAST_CONTENTS:
        return page
    links = "".join(f'<li><a href="#{name}">{title}</a></li>' for name, title in zip(names, titles, strict=True))
    head, header, rest = page.partition("</header>")
    return f'{head}{header}<nav class="contents" aria-label="contents"><ol>{links}</ol></nav>{rest}'


def write_page(path: Path, template: str | Path, **context: Any) -> None:
    """Writes the page whole or not at all, under a temporary name first."""
    write_text(path, render(template, **context))


def provenance_rows(record: Mapping[str, Any], **more: Any) -> Sequence[tuple[str, Any]]:
    """(what, value) of a `corpora.store.provenance.provenance`, behind `more`, for the macro `provenance`."""
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items() if version)
    git = record.get("git")
    return [
        *more.items(),
        ("command", " ".join(record.get("argv", []))),
        ("version", f"{versions}{f', commit {git}' if git else ''}"),
        ("host", record.get("host")),
        ("date", record.get("utc")),
    ]
