"""A surveyed pyramid as SVG: people's video at the base, robots on top, and what each tier gives to the training.

The image needs nothing from outside (no font, no script) and brings its own ground, light or dark as the reader's system
is. Colours are Okabe and Ito's (2008), told apart by colour-blind readers; tiers are named, too, and datasets numbered.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

from corpora.mixture.geometry import Band, Box, Scale, cut_bands
from corpora.mixture.survey import Contents, DatasetSurvey, MixtureSurvey, TierSurvey

WIDTH = 1100
COLOURS = {"human": "#E69F00", "synthetic": "#56B4E9", "neural": "#CC79A7", "robot": "#009E73"}
TITLES = {"human": "Human video", "synthetic": "Synthetic", "neural": "Neural trajectories", "robot": "Robot"}

_BOX = Box(24, 100, 540, 400)
_LIST_X, _LIST_WIDTH = 620, 456
_LEAST_BAND = 28.0
_LINE = 18.0
_ROW = 34.0
"""Height of a dataset in the list: its name and hours, and below them what its label is."""
_HEAD = 46.0
"""Height of a tier's title and its totals."""
_GAP = 18.0
_GUTTER = 24.0
"""Between two columns of datasets."""
_LEAN = 12.0
"""Pixels that a slanting side may lean into a text."""
_BOLD_FROM = 15
"""Sizes from here on are of titles, which are bold."""

_STYLE = """
.giza-pyramid .ground { fill: #ffffff } .giza-pyramid text { fill: #1f2328; font-family: Helvetica, Arial, sans-serif }
.giza-pyramid .soft { fill: #59636e } .giza-pyramid .seam { stroke: #ffffff } .giza-pyramid .lead { stroke: #8c959f }
.giza-pyramid text.on { fill: #111111 }
"""
_DARK = """
@media (prefers-color-scheme: dark) {
.giza-pyramid .ground { fill: #14181d } .giza-pyramid text { fill: #e6edf3 } .giza-pyramid .soft { fill: #a3adb8 }
.giza-pyramid .seam { stroke: #14181d } .giza-pyramid .lead { stroke: #6e7781 } .giza-pyramid text.on { fill: #111111 } }
"""


def pyramid_svg(survey: MixtureSurvey, *, dark: bool = True) -> str:
    """The image. `dark`: follow a reader's dark system; False: always light, to stand in a page that is.

    Raises ValueError for a survey without a tier.
    """
    tiers = [_largest_first(tier) for tier in reversed(survey.tiers)]
    if not tiers:
        raise ValueError("the pyramid has no tier to draw")
    blocks = [_Block.of(tier, survey) for tier in tiers]
    needed = sum(block.height for block in blocks) + _GAP * (len(blocks) - 1)
    box = Box(_BOX.x, _BOX.y, _BOX.width, max(_BOX.height, needed))
    bands, scale = cut_bands([_hours_once(tier) for tier in tiers], box, least=_LEAST_BAND)
    height = math.ceil(box.y + box.height + 64)
    name = survey.name or "A pyramid of robot data"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="giza-pyramid" role="img" viewBox="0 0 {WIDTH} {height}" '
        f'width="{WIDTH}" height="{height}">',
        f"<title>{escape(_printable(name))}</title>",
        f"<style>{_STYLE}{_DARK if dark else ''}</style>",
        f'<rect class="ground" x="0" y="0" width="{WIDTH}" height="{height}"/>',
        _text(24, 38, name, 22, bold=True, room=WIDTH - 48),
        _text(24, 64, _totals(survey), 13, soft=True, room=_BOX.width),
        _text(WIDTH - 24, 64, "share of hours" if survey.planned else "share of samples", 13, soft=True, anchor="end"),
    ]
    tops = _placed([box.y + 0.5 * (band.top + band.bottom) * box.height for band in bands], blocks, box)
    for tier, band, block, top in zip(tiers, bands, blocks, tops, strict=True):
        out += _band(tier, band, box)
        out += _leader(band, box, top + 17)
        out += block.draw(top)
    out += _caption(scale, box.y + box.height + 28)
    return "\n".join([*out, "</svg>", ""])


def pyramid_text(survey: MixtureSurvey) -> str:
    """The same in characters, a line for each slice, the tiers' names, hours and shares beside them."""
    tiers = [_largest_first(tier) for tier in reversed(survey.tiers)]
    if not tiers:
        return ""
    rows, columns = 16, 44
    box = Box(0, 0, columns, rows)
    bands, scale = cut_bands([_hours_once(tier) for tier in tiers], box, least=1.0)
    fills = {"human": "░", "synthetic": "▒", "neural": "▓", "robot": "█"}
    cuts = [round(band.top * rows) for band in bands] + [rows]
    lines = []
    for tier, (first, last) in zip(tiers, pairwise(cuts), strict=True):
        contents = _of_tier(survey, tier[0].spec.tier).contents
        for row in range(first, last):
            left, right = box.edges((row + 0.5) / rows)
            line = (" " * round(left) + fills[tier[0].spec.tier] * max(1, round(right) - round(left))).ljust(columns)
            if row == (first + last - 1) // 2:
                line += f"  {tier[0].spec.tier:<10}{hours_text(contents.hours):>12}  {contents.share:>6.1%}"
            lines.append(line.rstrip())
    what = "hours" if survey.planned else "samples"
    return "\n".join([*lines, f"{scale.name}; at the right: hours, share of {what}"])


def hours_text(hours: float) -> str:
    """Hours, minutes or seconds, as people say it."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    if hours * 60 >= 1:
        return f"{hours * 60:.1f} min"
    return f"{hours * 3600:.0f} s"


@dataclass(frozen=True)
class _Block:
    """What stands at the right of a tier: its title, totals and the list of its datasets."""

    title: str
    totals: str
    share: str
    colour: str
    lines: tuple[tuple[str, str, str], ...]
    """Of each dataset: number and name; hours and the like; its kind of label, and of latents the verdict on them."""
    columns: int

    @classmethod
    def of(cls, datasets: Sequence[DatasetSurvey], survey: MixtureSurvey) -> _Block:
        tier = _of_tier(survey, datasets[0].spec.tier)
        columns = 2 if len(datasets) > 3 else 1
        room = _column_width(columns)
        lines = tuple(_dataset_line(number, found, room, columns == 1) for number, found in enumerate(datasets, 1))
        share = f"{tier.contents.share:.1%}"
        return cls(TITLES[tier.tier], _contents_text(tier.contents), share, COLOURS[tier.tier], lines, columns)

    @property
    def rows(self) -> int:
        return math.ceil(len(self.lines) / self.columns)

    @property
    def height(self) -> float:
        return _HEAD + self.rows * _ROW

    def draw(self, top: float) -> list[str]:
        out = [
            f'<rect x="{_LIST_X}" y="{top + 5:.1f}" width="12" height="12" rx="2" fill="{self.colour}"/>',
            _text(_LIST_X + 20, top + 17, self.title, 15, bold=True),
            _text(WIDTH - 24, top + 17, self.share, 15, bold=True, anchor="end"),
            _text(_LIST_X + 20, top + 36, self.totals, 12, soft=True, room=_LIST_WIDTH - 20),
        ]
        room = _column_width(self.columns)
        for number, (name, tail, label) in enumerate(self.lines):
            column, row = divmod(number, self.rows)
            x, y = _LIST_X + 20 + column * (room + _GUTTER), top + _HEAD + 9 + row * _ROW
            out += [_text(x, y, name, 12), _text(x + room, y, tail, 12, soft=True, anchor="end")]
            out += [_text(x, y + 15, label, 11, soft=True, room=room)]
        return out


def _column_width(columns: int) -> float:
    return (_LIST_WIDTH - 20 - _GUTTER * (columns - 1)) / columns


def _largest_first(tier: TierSurvey) -> list[DatasetSurvey]:
    return sorted(tier.datasets, key=lambda found: -found.contents.hours)


def _hours_once(tier: Sequence[DatasetSurvey]) -> list[float]:
    """Of each dataset; those that several share, under labels of their own, are parted between them."""
    of = [found.spec.data for found in tier]
    return [found.contents.hours / (1 if found.spec.planned else of.count(found.spec.data)) for found in tier]


def _of_tier(survey: MixtureSurvey, tier: str) -> TierSurvey:
    return next(found for found in survey.tiers if found.tier == tier)


def _totals(survey: MixtureSurvey) -> str:
    text = _contents_text(survey.contents)
    return f"{text}; {survey.steps:,} steps of {survey.batch_size}" if survey.steps and survey.batch_size else text


def _contents_text(contents: Contents) -> str:
    parts = [hours_text(contents.hours)]
    counts = ((contents.clips, "clip"), (contents.frames, "frame"))
    parts += [f"{count:,} {what}{'s' if count > 1 else ''}" for count, what in counts if count]
    parts += [] if contents.epochs is None else [f"{contents.epochs:.1f} epochs"]
    return " · ".join(parts)


def _dataset_line(number: int, found: DatasetSurvey, room: float, roomy: bool) -> tuple[str, str, str]:
    contents = found.contents
    tail = hours_text(contents.hours)
    if roomy:
        tail += f" · {contents.share:.1%}"
        if contents.epochs is not None:
            tail += f" · {contents.epochs:.1f} epochs"
    return _cut(f"{_numbered(number)} {found.spec.name}", room - _wide(tail, 12) - 12, 12), tail, _label_text(found)


def _numbered(number: int) -> str:
    """Of a dataset in its tier: in brackets, or it would be read as a count."""
    return f"[{number}]"


def _label_text(found: DatasetSurvey) -> str:
    """Its kind of label, of a control that it is shuffled, and of latents the verdict on them."""
    label = found.spec.label
    return f"{label.description}; {label.verdict}" if label.verdict else label.description


def _band(tier: Sequence[DatasetSurvey], band: Band, box: Box) -> list[str]:
    """Datasets as polygons, with their names where there is room, else their numbers in the list."""
    colour = COLOURS[tier[0].spec.tier]
    out = []
    for number, found in enumerate(tier):
        corners = " ".join(f"{x:.2f},{y:.2f}" for x, y in band.segment(number, box))
        left, right, y = band.middle(number, box)
        name, hours = _printable(found.spec.name), hours_text(found.contents.hours)
        fill = colour if number % 2 == 0 else _lighter(colour)
        seam = 1.5 if right - left > 8 else 0.4  # a wide seam would hide a small dataset
        out.append(
            f'<polygon class="seam" stroke-width="{seam}" fill="{fill}" points="{corners}" '
            f"data-dataset={quoteattr(name)}><title>{escape(name)}: {hours}, {escape(_label_text(found))}</title></polygon>"
        )
        x, room = 0.5 * (left + right), right - left - 2 * _LEAN
        if band.height(box) >= 40 and max(_wide(name, 12), _wide(hours, 11)) <= room:
            out += [
                _text(x, y - 3, name, 12, anchor="middle", kind="on"),
                _text(x, y + 12, hours, 11, anchor="middle", kind="on"),
            ]
        elif _wide(f"{name} · {hours}", 12) <= room:
            out.append(_text(x, y + 4, f"{name} · {hours}", 12, anchor="middle", kind="on"))
        elif right - left >= _wide(_numbered(number + 1), 11) + 6:
            out.append(_text(x, y + 4, _numbered(number + 1), 11, anchor="middle", kind="on"))
    return out


def _leader(band: Band, box: Box, y_list: float) -> list[str]:
    depth = 0.5 * (band.top + band.bottom)
    x, y = box.edges(depth)[1] + 5, box.y + depth * box.height
    points = f"{x:.1f},{y:.1f} {_LIST_X - 24:.1f},{y:.1f} {_LIST_X - 8:.1f},{y_list - 6:.1f}"
    return [f'<polyline class="lead" fill="none" stroke-width="1" points="{points}"/>']


def _placed(centres: Sequence[float], blocks: Sequence[_Block], box: Box) -> list[float]:
    """Tops of the blocks: each beside its band where it can, none over another, all within the height of the box."""
    tops: list[float] = []
    least = box.y - 6
    for centre, block in zip(centres, blocks, strict=True):
        tops.append(max(least, centre - 0.5 * block.height))
        least = tops[-1] + block.height + _GAP
    most = box.y + box.height + 6
    for number in range(len(blocks) - 1, -1, -1):
        tops[number] = min(tops[number], most - blocks[number].height)
        most = tops[number] - _GAP
    return tops


def _caption(scale: Scale, y: float) -> list[str]:
    return [
        _text(24, y, f"Scale: {scale.name};", 12, soft=True, room=WIDTH - 48),
        _text(
            24, y + _LINE, "within a tier proportional to hours; hours under several labels count once.", 12, soft=True
        ),
    ]


def _lighter(colour: str) -> str:
    """A third of the way to white."""
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * 0.34):02X}" for part in parts)


def _text(
    x: float,
    y: float,
    text: str,
    size: int,
    *,
    bold: bool = False,
    soft: bool = False,
    anchor: str = "start",
    kind: str = "",
    room: float = math.inf,
) -> str:
    classes = " ".join(name for name in ("soft" if soft else "", kind) if name)
    weight = ' font-weight="600"' if bold else ""
    written = f' class="{classes}"' if classes else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"{weight}{written}>'
        f"{escape(_cut(text, room, size))}</text>"
    )


def _wide(text: str, size: int) -> float:
    """Pixels that a text takes at most: fonts differ from system to system, so this is of the wider ones."""
    ems = sum(_ems(letter) for letter in text)
    return size * ems * (1.06 if size >= _BOLD_FROM else 1.0)


def _ems(letter: str) -> float:
    if unicodedata.east_asian_width(letter) in "WF" or letter in "WM@%mw…":
        return 1.05
    if letter in "iIjl.,:;'|!()[]f t·":
        return 0.42
    return 0.75 if letter.isupper() else 0.62


def _cut(text: str, room: float, size: int) -> str:
    """The text, its end left out where it is wider than `room`; three letters at least."""
    text = _printable(text)
    if math.isinf(room) or _wide(text, size) <= room:
        return text
    kept = len(text)
    while kept > 3 and _wide(text[:kept] + "…", size) > room:
        kept -= 1
    return text[:kept].rstrip() + "…"


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
