"""`giza pyramid`: checks a pyramid file, prints and draws what it holds, tier by tier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from corpora.store.inputs import READ
from corpora.store.remote import told
from corpora.store.upload import uploaded
from jobs.cli import parse

if TYPE_CHECKING:
    from corpora.mixture.survey import Contents, MixtureSurvey

TEMPLATE = Path(__file__).with_name("pyramid.html.j2")


@dataclass(frozen=True)
class PyramidConfig:
    """Print and draw a pyramid file; every fault in it is named at once."""

    pyramid: Path = field(metadata=READ)
    """TOML file of datasets."""
    out: Path | None = None
    """Folder for pyramid.json, pyramid.svg and pyramid.html; without it they are not written."""
    steps: int = 0
    """Planned optimiser steps, for epochs; 0: the recipe's, where it counts steps."""
    batch_size: int = 0
    """Planned samples a step; 0: the recipe's."""
    recipe: str = "small"
    """The policy that datasets have to fit, as giza pretrain names it."""
    future_s: float = 0.8
    """Clips without labels: seconds to the frame that they are aligned with."""
    any_embodiment: bool = False
    """Accept an embodiment whose name is almost that of one that every policy has; others are new, and training adds them."""
    light: bool = False
    """An image that stays light on a dark system."""

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch_size < 0:
            raise ValueError(f"--steps {self.steps} --batch-size {self.batch_size}: 0 or more")
        if self.future_s <= 0:
            raise ValueError(f"--future-s {self.future_s}: more than 0 seconds")


def run(config: PyramidConfig) -> MixtureSurvey:
    """Surveys, and writes record, drawing and page to `out` where it is given. Raises ValueError that names all faults together."""
    from markupsafe import Markup

    from corpora.mixture.drawing import hours_text, pyramid_svg
    from corpora.mixture.embodiments import SLOTS
    from corpora.mixture.label_type import PolicyLimits
    from corpora.mixture.mixture import raise_faults, read_sound_datasets
    from corpora.store.files import write_json, write_text
    from corpora.store.kinds import expect_own
    from corpora.store.provenance import provenance
    from lapa.reporting.page import provenance_rows, write_page
    from vla.recipes import recipe_named

    recipe = recipe_named(config.recipe)
    mixture, faults = read_sound_datasets(config.pyramid, embodiments=() if config.any_embodiment else SLOTS)
    limits = PolicyLimits(
        recipe.policy.horizon, recipe.policy.max_action_dim, recipe.policy.max_state_dim, config.future_s
    )
    survey = mixture.survey(
        steps=config.steps or recipe.training.steps,
        batch_size=config.batch_size or recipe.training.batch_size * recipe.training.accumulate,
        limits=limits,
    )
    raise_faults(str(config.pyramid), [*faults, *survey.faults])
    if config.out is not None:
        out = config.out.expanduser()
        expect_own(out, "pyramid")
        out.mkdir(parents=True, exist_ok=True)
        with uploaded(out):
            write_json(out / "pyramid.json", survey.to_json() | {"provenance": provenance()})
            write_text(out / "pyramid.svg", pyramid_svg(survey, dark=not config.light))
            drawing = Markup(pyramid_svg(survey, dark=not config.light))
            made = provenance_rows(provenance(), recipe=config.recipe)
            write_page(out / "pyramid.html", TEMPLATE, survey=survey, drawing=drawing, hours_text=hours_text, made=made)
    return survey


def table(survey: MixtureSurvey) -> Table:
    """Tiers from the top to the base, datasets below their tier."""
    share = "share of hours" if survey.planned else "share of samples"
    columns = ["", "label", "embodiment"]
    columns += [name for name in ("clips", "frames") if getattr(survey.contents, name)]
    columns += ["hours", *(["samples"] if not survey.planned else []), share]
    columns += ["epochs"] if survey.contents.epochs is not None else []
    columns += [name for name in ("licence", "source") if any(getattr(found.spec, name) for found in survey.datasets)]
    result = Table(title=survey.name or None, title_justify="left")
    for column in columns:
        left = column in ("", "label", "embodiment", "licence", "source")
        result.add_column(column, justify="left" if left else "right", no_wrap=column in ("", "hours"))

    def add(first: str, contents: Contents, facts: dict[str, str], **how: Any) -> None:
        values = {"": first, share: f"{contents.share:.1%}", "hours": _hours(contents.hours), **facts}
        for name in ("clips", "frames", "samples"):
            values[name] = f"{getattr(contents, name):,}" if getattr(contents, name) else "-"
        values["epochs"] = "-" if contents.epochs is None else f"{contents.epochs:.2f}"
        result.add_row(*(values.get(column, "") for column in columns), **how)

    for tier in reversed(survey.tiers):
        add(tier.tier, tier.contents, {}, style="bold")
        for number, found in enumerate(tier.datasets, 1):
            facts = {name: getattr(found.spec, name) for name in ("embodiment", "licence", "source")}
            facts["label"] = found.spec.label.words[0]
            add(f"  {found.spec.name}", found.contents, facts, end_section=number == len(tier.datasets))
    add("all", survey.contents, {}, style="bold")
    return result


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.4f}"


def main(argv: Sequence[str]) -> None:
    """The job's command line; the file may also stand first without a flag."""
    words = list(argv)
    if words and not words[0].startswith("-"):
        words = ["--pyramid", *words]
    config = parse(PyramidConfig, words, job="pyramid")
    from corpora.mixture.drawing import pyramid_text

    survey = run(config)
    console = Console()
    console.print(table(survey))
    for found in survey.datasets:
        verdict = found.spec.label.verdict
        for said in (f"latents: {verdict}" if verdict else "", found.told):
            if said:
                console.print(f"{found.spec.name}, {said}", highlight=False, markup=False, soft_wrap=True)
    console.print(pyramid_text(survey), highlight=False, markup=False, soft_wrap=True)
    where = f" -> {told(config.out)}" if config.out else ""
    console.print(f"{len(survey.datasets)} datasets of {len(survey.tiers)} tiers{where}", soft_wrap=True)
