"""The ablation's page and tables: they name all arms and failures, reach for nothing outside, and hold hostile names."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from jobs.ablation.charts import colours_of, forest, learning_curves
from jobs.ablation.films import PAGE_BYTES
from jobs.ablation.findings import verdict
from jobs.ablation.page import render, write_page
from jobs.ablation.sentences import arm_words
from jobs.ablation.statistics import summarise
from jobs.ablation.study import Study
from jobs.ablation.tables import costs, matched_words, print_tables, sentences
from jobs.ablation.words import percent
from lapa.reporting.figures import CARD, INK, svg
from tests.builders.videos import numbered_video

ARMS = {"robot-only": 0.3, "bc": 0.3, "human-latent": 0.8, "shuffled": 0.3}
TASKS = ("drawer-open", "push")
HOSTILE = "<script>alert('x')</script>\"&[bold]"
EMBEDDED = re.compile(r'(src|poster)="data:(video/mp4|image/jpeg);base64,[A-Za-z0-9+/=]*"')
VOID = ("meta", "br", "img", "link", "input", "hr")


def made(arms: dict[str, float] | None = None, *, seeds: int = 3, **more: Any) -> dict[str, Any]:
    """A result of two tasks with ten starts each, at 1 and 3 demonstrations."""
    rng = np.random.default_rng(0)
    runs = []
    for arm, chance in (arms or ARMS).items():
        for demos in (1, 3):
            for seed in range(seeds):
                rollouts = [
                    {"task": task, "start": start, "success": bool(rng.random() < chance), "steps": 50}
                    for task in TASKS
                    for start in range(10)
                ]
                cost = {"steps": 200, "minutes": 3.0, "samples_seen": 6400, "robot_samples_seen": 6400}
                curve = [[step, 1.5 / step + 0.1 * seed] for step in (50, 100, 200)]
                record = {"arm": arm, "demos": demos, "seed": seed, "status": "done", "error": None}
                runs.append({**record, **cost, "curve": curve, "rollouts": rollouts})
    return {
        "recipe": "demo",
        "settings": {"tasks": list(TASKS), "demos": [1, 3], "seeds": list(range(seeds)), "starts": 10, "lr": 1e-3},
        "pyramid": {
            "tiers": [{"tier": "robot", "hours": 0.01}, {"tier": "human", "hours": 2, "episodes": 1480}],
            "arms": [],
        },
        "arms": [{"name": arm, "says": f"what {arm} is", "members": ["robot"]} for arm in arms or ARMS],
        "runs": runs,
        "latents": {"probe_r2": 0.61},
        **more,
    }


def fail(result: dict[str, Any], arm: str, demos: int, seed: int, error: str) -> None:
    run = next(run for run in result["runs"] if (run["arm"], run["demos"], run["seed"]) == (arm, demos, seed))
    run.update(status="failed", error=error, rollouts=[], curve=[])


def page(result: dict[str, Any]) -> str:
    return render(result, summarise(result, draws=300))


class Nesting(HTMLParser):
    """Holds open elements; each must be closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def check(text: str) -> Nesting:
    parser = Nesting()
    parser.feed(text)
    parser.close()
    assert parser.open == []
    for drawing in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ElementTree.fromstring(drawing)
    assert not {"script", "link", "img", "iframe", "base", "object"} & set(parser.seen)
    contents = re.compile(r'<a href="#[\w-]+">')  # links within the page alone
    assert parser.seen.count("a") == len(contents.findall(text))
    assert not re.search(r"https?:|//|\bsrc\s*=|\bhref\s*=|url\(|@import", contents.sub("", EMBEDDED.sub("", text)))
    assert "nan" not in re.findall(r"[a-z]+", text) and "None" not in text.replace("None: all", "")
    return parser


def test_the_page_is_well_formed_and_says_what_was_found(tmp_path: Path) -> None:
    result = made()
    write_page(result, tmp_path / "ablation.html", summarise(result))
    text = (tmp_path / "ablation.html").read_text("utf-8")
    parser = check(text)
    statistics = summarise(result)
    assert f"<h1>{statistics.headline.partition('; ')[0]}</h1>" in text
    assert statistics.headline == "Success is lifted over the best baseline by human-latent at 1 and 3 demonstrations"
    plain = text.replace("\u00a0", " ")
    for demos in (1, 3):
        assert arm_words(statistics, "human-latent", demos, brief=True) in plain
    assert "It beats its control shuffled by" in plain
    for cell in statistics.success:
        figure, _, interval = percent(cell.overall).partition(" ")
        row = rf"<b>{cell.arm}</b>(?:(?!<tr>).)*>{re.escape(figure)}</span>\s*<[^>]*>{re.escape(interval)}<"
        assert re.search(row, plain, re.S)
        assert f"what {cell.arm} is" in text
    for task in TASKS:
        assert text.count(f"<th>{task}</th>") == 2  # at either number of demonstrations
    assert parser.seen.count("svg") == 1 + 1 + 4  # pyramid, differences, curves with bc apart
    assert "1,480 episodes" in text and "None: all planned runs are full." in text and "0.61" in text
    write_page(result, tmp_path / "again.html", statistics)
    assert (tmp_path / "again.html").read_text("utf-8") == text


def test_failures_are_named_with_their_reasons_and_the_rest_is_shown() -> None:
    result = made()
    fail(result, "human-latent", 1, 2, "RuntimeError: out of memory <here>")
    for seed in range(3):
        fail(result, "bc", 3, seed, f"ValueError: seed {seed} has no data")
    result["runs"] = [run for run in result["runs"] if (run["arm"], run["seed"]) != ("shuffled", 0)]
    text = page(result)
    check(text)
    assert (
        "human-latent</b>, 1 demonstration, seed 2: " in text
        and "failed: RuntimeError: out of memory &lt;here&gt;" in text
    )
    assert all(f"ValueError: seed {seed} has no data" in text for seed in range(3))
    assert text.count("shuffled</b>, ") == 2 and text.count(">not run</span>") == 2
    assert "no full seed" in text and "no common seed" in text
    assert "18 of 24 runs are full" in text
    assert "on seeds 0, 1 alone, which both have" in text
    assert "bc: cannot tell, no seed ran to its end in both" in text


def test_nothing_done_yet_is_a_page_too() -> None:
    result = made(pyramid=None, latents=None)
    for run in result["runs"]:
        run.update(status="missing", rollouts=[], curve=[])
    for key in ("steps", "minutes", "samples_seen", "robot_samples_seen"):
        result["runs"][0].pop(key)
    text = page(result)
    check(text)
    assert "Cannot tell: no arm can be compared with a baseline" in text and "No run was finished." in text
    assert "The pyramid</h2>" not in text and "Learning curves" not in text


def test_names_and_reasons_cannot_break_out() -> None:
    result = made({"robot-only": 0.2, HOSTILE: 0.9})
    fail(result, HOSTILE, 1, 0, HOSTILE)
    result["arms"][1].update(says=HOSTILE, members=[HOSTILE])
    result["settings"].update({HOSTILE: HOSTILE})
    result["pyramid"]["tiers"][0]["tier"] = HOSTILE
    result["recipe"] = result["latents"]["probe_r2"] = HOSTILE
    for run in result["runs"]:
        for rollout in run["rollouts"]:
            rollout["task"] = rollout["task"].replace("push", HOSTILE)
    result["settings"]["tasks"][1] = HOSTILE
    text = page(result)
    check(text.replace("</script>", ""))
    assert "<script" not in text and "&lt;script&gt;alert" in text
    out = StringIO()
    print_tables(result, summarise(result, draws=50), console=Console(file=out, width=200))
    assert HOSTILE in out.getvalue()


@pytest.mark.parametrize(
    "inside",
    [
        "<script>1</script>",
        '<rect onload="x()"/>',
        '<image href="file.png"/>',
        '<rect fill="url(https://x)"/>',
        "<style>@import 'x'</style>",
        "<rect",
    ],
)
def test_a_drawing_that_does_more_than_draw_is_left_out(inside: str) -> None:
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" class="giza-pyramid">{inside}</svg>'
    result = made()
    result["pyramid"]["arms"] = [{"names": list(ARMS), "svg": svg}]
    text = page(result)
    check(text)
    assert 'class="giza-pyramid"' not in text and "hours of each tier" in text


def test_given_drawings_stand_for_the_bars() -> None:
    result = made()
    svg = (
        '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg" class="giza-pyramid" viewBox="0 0 9 9">'
        '<style>.giza-pyramid text { fill: red }</style><text x="1" y="1" font-size="22" font-weight="600">A &lt; B</text></svg>'
    )
    result["pyramid"]["arms"] = [{"names": ["robot-only", "bc"], "svg": svg}, {"names": ["human-latent"], "svg": svg}]
    text = page(result)
    check(text)
    assert text.count('class="giza-pyramid"') == 2
    shared, alone = re.findall(r"<summary>(.*?)</summary>\s*<div class=\"wide\"><svg", text, re.S)
    assert "robot-only" in shared and "bc" in shared and "human-latent" in alone
    assert 'class="giza-pyramid"' in text and "hours of each tier" not in text and "<?xml" not in text
    assert (
        'style="font-size:22px;font-weight:600">A &lt; B</text>' in text
    )  # the page's style must not shrink its fonts


def test_films_are_in_the_page_as_long_as_there_is_room(tmp_path: Path) -> None:
    result = made()
    numbered_video(tmp_path / "small.mp4", 5)
    (tmp_path / "large.mp4").write_bytes(b"v" * PAGE_BYTES)
    films = [
        {"task": "push", "start": start, "success": success, "seconds": 1.5, "file": f"{name}.mp4"}
        for start, (success, name) in enumerate(((True, "small"), (False, "large"), (False, "gone")))
    ]
    next(run for run in result["runs"] if run["arm"] == "bc")["films"] = films
    write_page(result, tmp_path / "ablation.html", summarise(result, draws=300))
    text = (tmp_path / "ablation.html").read_text("utf-8")
    check(text)
    film = base64.b64encode((tmp_path / "small.mp4").read_bytes()).decode()
    assert text.count("<video") == 1 and f"data:video/mp4;base64,{film}" in text and len(text) < PAGE_BYTES
    assert "large.mp4" in text and "gone.mp4" in text
    assert [outcome.strip() for outcome in re.findall(r'>\s*(success|failure)</span> push', text)] == [
        "success", "failure", "failure",
    ]  # fmt: skip


def test_points_stand_where_the_figures_say() -> None:
    statistics = summarise(made())
    axes = forest(statistics.comparisons, statistics).axes[0]
    drawn = [c for demos in (1, 3) for q in ("lift", "control", "beside") for c in statistics.asked(q, demos)]  # type: ignore[arg-type]
    spots = [line for line in axes.lines if line.get_marker() in ("o", "s")]
    assert len(drawn) == len(spots) == len(axes.collections) == 2 * 4
    labels = [label.get_text() for label in axes.get_yticklabels()]
    colours = colours_of(statistics.arms)
    for comparison, spot, line in zip(drawn, spots, axes.collections, strict=True):
        (low, y), (high, _) = line.get_segments()[0]  # type: ignore[attr-defined]
        found = comparison.overall
        assert found is not None
        assert (low, high) == (pytest.approx(100 * found.low), pytest.approx(100 * found.high))
        assert spot.get_xdata() == pytest.approx([100 * found.value]) and spot.get_ydata() == [y]
        is_control = comparison.question == "control"
        assert labels[int(y)] == (f"minus {comparison.reference}" if is_control else comparison.arm)
        assert spot.get_color() == colours[comparison.arm]
        assert (spot.get_markerfacecolor() == CARD) == (comparison.arm == "shuffled")
    assert [text.get_text() for text in axes.texts if text.get_weight() == "bold"] == [
        f"{words}, minus {statistics.references[demos]}"
        for demos, words in ((1, "1 demonstration"), (3, "3 demonstrations"))
    ]


def test_an_arm_has_one_colour_in_all_runs_and_charts_refer_to_nothing() -> None:
    some, more = (
        summarise(made(dict.fromkeys(names, 0.5), seeds=1), draws=50)
        for names in (
            ("robot-only", "human-latent", "mine"),
            ("mine", "shuffled", "human-track", "robot-only", "human-latent"),
        )
    )
    few, many = colours_of(some.arms), colours_of(more.arms)
    assert few == {name: many[name] for name in few} and len(set(many.values())) == len(many)
    text = svg(forest(more.comparisons, more), "a & b")
    root = ElementTree.fromstring(text)
    assert root.attrib["aria-label"] == "a & b" and {element.tag for element in root.iter()} <= {
        "svg",
        "g",
        "path",
        "text",
        "title",
    }
    assert "var(--ink)" in text and INK not in text and many["human-latent"] in text
    assert not {"id", "clip-path"} & {name for element in root.iter() for name in element.attrib}
    tips = [element.text for element in root.iter("title")]
    assert str(more.comparison("human-latent", None, 1)) in tips


def test_curves_that_diverged_or_are_empty_do_no_harm() -> None:
    assert learning_curves({}, {}) is None is learning_curves({"a": [[], [(1, float("nan"))]]}, {"a": "red"})
    figure = learning_curves(
        {"a": [[(1, 0.5), (2, float("inf")), (3, 0.1)], []], "b": [[(5, 0.2)]]}, {"a": "red", "b": "blue"}
    )
    assert figure is not None
    once = [line for line in figure.axes[0].lines if line.get_alpha()]
    assert len(once) == 1 and list(once[0].get_ydata()) == [0.5, 0.1]
    text = svg(figure, "curves")
    assert "inf" not in text and "nan" not in text


def test_curves_of_one_loss_share_a_chart_and_of_another_have_their_own() -> None:
    result = made({"robot-only": 0.3, "bc": 0.3, "robot-small": 0.3})
    titles = re.compile(r"<h3>((?:regression|flow matching), [^<]*)</h3>")
    assert titles.findall(page(result)) == [
        *("flow matching, 1 demonstration", "flow matching, 3 demonstrations"),  # of old, bc alone had another
        *("regression, 1 demonstration", "regression, 3 demonstrations"),
    ]
    for arm, recipe in zip(result["arms"], ("trunk", "bc", "small"), strict=True):
        arm["recipe"] = recipe
    found = titles.findall(text := page(result))
    assert [title.partition(",")[0] for title in found] == ["regression"] * 2 + ["flow matching"] * 2
    (regression, _) = text.split("<h3>regression, 1 demonstration</h3>")[1].split("</svg>", 1)
    assert ">robot-only<" in regression and ">bc<" in regression and ">robot-small<" not in regression


def test_costs_are_means_of_finished_runs_and_unmatched_ones_are_said() -> None:
    result = made()
    assert matched_words(costs(result)).endswith(
        "Over all arms: optimiser steps the same; samples seen the same; robot samples seen the same."
    )
    fail(result, "bc", 1, 0, "lost")
    for run in result["runs"]:
        if run["arm"] == "human-latent":
            run.update(robot_samples_seen=1000 + 300 * run["seed"], minutes=6.0)
    rows = {(row["arm"], row["demos"]): row for row in costs(result)}
    assert (
        rows["bc", 1]["runs"] == 2 and rows["bc", 1]["minutes"] == 3.0 and rows["bc", 1]["hours"] == pytest.approx(0.1)
    )
    assert rows["human-latent", 3]["robot_samples_seen"] == 1300 and rows["human-latent", 3]["hours"] == pytest.approx(
        0.3
    )
    assert matched_words(list(rows.values())).endswith("robot samples seen 1,300 to 6,400.")


def test_the_terminal_names_all_arms_verdicts_and_failures() -> None:
    result = made(seeds=1)
    fail(result, "shuffled", 3, 0, "RuntimeError: gone")
    statistics = summarise(result, draws=100)
    out = StringIO()
    print_tables(result, statistics, console=Console(file=out, width=240))
    text = out.getvalue()
    assert all(arm in text for arm in ARMS) and statistics.headline in text
    assert all(sentence in text for sentence in sentences(statistics))
    assert "left out: shuffled at 3 demonstrations, seed 0: failed: RuntimeError: gone" in text
    assert "one seed, so the interval is over starts alone" in text


def test_a_study_says_shows_and_saves_what_was_found(tmp_path: Path) -> None:
    result = made()
    (tmp_path / "ablation.json").write_text(json.dumps(result), "utf-8")
    study = Study.read(tmp_path)
    assert study.headline == summarise(result).headline
    best = study.statistics.references[3]
    lift = study.comparison("human-latent", demos=3)
    assert lift == summarise(result).comparison("human-latent", best, 3) and str(lift) == verdict(lift)
    assert study.success("bc", 1).arm == "bc"
    assert len(study.forest("shuffled").axes[0].collections) == 2  # human-latent, twice
    assert len(study.forest().axes[0].collections) == len(study.statistics.comparisons)
    out = StringIO()
    Console(file=out, width=120).print(study.table())
    assert all(percent(cell.overall) in out.getvalue() for cell in study.statistics.success)
    assert str(study).startswith(f"{study.headline}.\n") and verdict(lift) in str(study)
    study.save_html(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text("utf-8") == render(result, study.statistics)
    with pytest.raises(KeyError, match="human-latent against nothing"):
        study.comparison("human-latent", "nothing", 1)
    with pytest.raises(ValueError, match="name one of .*shuffled"):
        study.forest("nothing")
    with pytest.raises(ValueError, match="run giza ablate"):
        Study.read(tmp_path / "elsewhere")


def test_arms_that_are_not_run_without_a_demonstration_are_not_missed() -> None:
    result = made()
    for arm in result["arms"]:
        arm["controls"] = ["shuffled"] if arm["name"] == "human-latent" else []
        arm["demos"] = [3] if arm["name"] in ("bc", "shuffled") else [1, 3]
    result["runs"] = [run for run in result["runs"] if run["demos"] == 3 or run["arm"] not in ("bc", "shuffled")]
    statistics = summarise(result)
    assert statistics.planned(1) == ["robot-only", "human-latent"] and len(statistics.planned(3)) == 4
    assert statistics.references == {1: "robot-only", 3: statistics.references[3]}
    assert not any(cell.without for cell in statistics.success)
    assert [row["demos"] for row in costs(result) if row["arm"] == "bc"] == [3]
    at_one, at_three = (arm_words(statistics, "human-latent", demos) for demos in (1, 3))
    assert at_one.endswith("Its control shuffled had no run") and "It beats its control shuffled" in at_three
    assert not statistics.told_from_controls(statistics.comparison("human-latent", None, 1))
    success = page(result).split("<h2>Success</h2>")[1].split("</section>")[0]
    assert success.count("<b>bc</b>") == 1 and success.count("<b>robot-only</b>") == 2
    out = StringIO()
    print_tables(result, statistics, console=Console(file=out, width=200))
    assert "left out" not in out.getvalue()
