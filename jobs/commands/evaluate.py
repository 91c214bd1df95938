"""How good is this policy? Open loop on held-out episodes, closed loop in Meta-World or LIBERO, with intervals, plots and videos."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from corpora.episodes.selection import ALL_EPISODES, EpisodeSelection, spans
from corpora.simulation.tasks import check_benchmark
from corpora.store.files import plain, read_json
from corpora.store.inputs import READ, READ_OR_HUB, ROBOT
from corpora.store.remote import told
from corpora.store.run import Run
from corpora.store.told import listed
from corpora.store.upload import uploaded
from jobs.cli import parse, value_in
from jobs.progress import bar
from vla.trained_on import Known, known_of, verdicts_on_latents

log = logging.getLogger(__name__)

RESULT = "evaluation.json"


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a policy: --data for recorded episodes, --benchmark for rollouts, or both."""

    policy: str = field(metadata=READ_OR_HUB)
    """Run folder of giza pretrain or giza ground, or a name on the hub."""
    out: Path
    """Folder for evaluation.json, evaluation.html, plots and videos; the same command again resumes."""
    embodiment: str = field(default="", metadata=ROBOT)
    """Robot that acts; may be left out where the policy knows only one."""
    data: Path | None = field(default=None, metadata=READ)
    """LeRobot or RLDS dataset for the open loop."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_EPISODES
    """With --data: what the policy is measured on; default: what its training held out of this dataset. Of its cameras, state and
    action those of the policy's names are taken."""
    train_episodes: str = ""
    """With --data: episodes behind the baselines; default: all others."""
    every: int = 2
    """With --data: predict a chunk at every k-th row."""
    plots: int = 3
    """With --data: episodes whose trajectories are drawn, and that are filmed."""
    benchmark: str = ""
    """Closed loop in metaworld or libero."""
    metaworld: bool = False
    """The same as --benchmark metaworld."""
    tasks: tuple[str, ...] = ()
    """Of the benchmark; default: the six that giza simulate makes, or all of LIBERO's suite."""
    starts: int = 0
    """Unseen initial states of each task; 0: 20, and in LIBERO the 50 that it stores."""
    execute: int = 0
    """Steps of a chunk that are executed before the next is asked for; 0: 8, and in LIBERO 5."""
    max_steps: int = 0
    """Control steps after which a rollout has failed; 0: 250 (of 12.5 ms), and in LIBERO 220, 280, 300, 520 (of 50 ms) by suite."""
    suite: str = "object"
    """Of LIBERO: spatial, object, goal or long."""
    wait_steps: int = 10
    """In LIBERO: control steps at rest before the policy acts."""
    shadows: bool = False
    """In LIBERO: pictures with shadows, reflections and multisampling, as the published copies have; four times slower."""
    server: str = ""
    """In LIBERO: HOST:PORT of a giza serve of the same policy; default: one is started for the while."""
    language_check: bool = False
    """With --metaworld: tell each start of the faucet tasks both instructions, and none."""
    size: int = 96
    """Pixels of the rendered images, as the training data were rendered; the policy sees them resized."""
    camera: str = "head"
    """With --metaworld: the camera of the training data."""
    films: int = 1
    """Starts of each task and instruction that are recorded as videos."""
    workers: int = 2
    """Processes of environments."""
    slots: int = 6
    """With --metaworld: environments of each process that play side by side."""
    passes: int = 0
    """Of System 1 for a chunk, the steps of its sampler; 0: as it was trained for."""
    cache: Path | None = None
    """Folder for decoded images; default GIZA_CACHE, else the user's cache."""
    device: str = ""
    """cpu or cuda; default: the GPU where there is one."""
    threads: int = 0
    """Cores of the model; 0: all."""
    seed: int = 0
    """Of starts, noise and resamples: the same starts for every policy."""

    def __post_init__(self) -> None:
        if self.benchmark:
            check_benchmark(self.benchmark)
        if self.metaworld and self.benchmark not in ("", "metaworld"):
            raise ValueError(f"--metaworld beside --benchmark {self.benchmark}: give one of them")
        if self.data is None and not self.played:
            raise ValueError(
                "nothing to evaluate on: give --data (open loop), --benchmark metaworld or libero, or both"
            )
        if self.data is None:
            chosen = {**vars(self.selection), "train_episodes": self.train_episodes}
            for name in ("episodes", "demos", "train_episodes", "cameras", "state", "action", "previous_action"):
                if chosen[name]:
                    raise ValueError(f"--{name.replace('_', '-')} without --data: it chooses from a dataset")
        if self.selection.keep_idle:
            raise ValueError("--keep-idle is of training: an evaluation looks at every row; leave it out")
        if not self.played and (self.tasks or self.language_check):
            raise ValueError("--tasks and --language-check are of the closed loop: add --benchmark metaworld")
        of_metaworld, of_libero = ("language_check", "camera"), ("suite", "wait_steps", "shadows", "server")
        for name in of_metaworld if self.played == "libero" else of_libero:
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                where = "metaworld" if name in of_metaworld else "libero"
                raise ValueError(f"--{name.replace('_', '-')} is of --benchmark {where}: leave it out")
        for name, least in (
            ("every", 1),
            ("plots", 0),
            ("starts", 0),
            ("execute", 0),
            ("max_steps", 0),
            ("wait_steps", 0),
            ("films", 0),
            ("threads", 0),
            ("passes", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {least}")

    @property
    def played(self) -> str:
        """The benchmark of the closed loop; "" without one."""
        return "metaworld" if self.metaworld else self.benchmark


def run(config: EvaluateConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Evaluates what is still missing, writes evaluation.json and its page, and returns the former.

    Raises ValueError for a policy, dataset or task there is not, and for an `out` that holds another evaluation.
    """
    import torch

    from jobs.evaluation.acting import embodiment_of, load_acting
    from jobs.evaluation.page import PAGE, write_page
    from jobs.evaluation.verdict import verdicts

    started = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    policy, fingerprint = load_acting(config.policy, device=config.device)
    embodiment = embodiment_of(policy, config.embodiment)
    measured: dict[str, Any] = {"fingerprint": fingerprint, "embodiment": embodiment}
    if config.passes:
        policy.sample_in(config.passes)
        measured["passes"] = config.passes
    run = Run(config.out, measured, summary=RESULT)
    with run.claim():
        result: dict[str, Any] = {
            **_comparable(read_json(config.out / RESULT) or {}),  # what other calls of this job measured stays
            "policy": config.policy,
            **measured,
            "seed": config.seed,
            "training": _training(config.policy, policy),
        }
        if config.data is not None:
            result["open_loop"] = _open_loop(config, policy, embodiment, fingerprint, quiet)
        if config.played:
            play = {"metaworld": _metaworld, "libero": _libero}[config.played]
            result["closed_loop"] = play(config, policy, embodiment, fingerprint, quiet)
        result["verdict"] = {part: verdict.to_json() for part, verdict in verdicts(result).items()}
        result["wall_s"] = round(time.monotonic() - started, 1)
        result = run.finish(result)
        write_page(result, config.out / PAGE)
    if Path(config.policy).is_dir():  # the model card holds what was measured
        from vla.checkpoint import record_measured

        with uploaded(Path(config.policy)):
            record_measured(Path(config.policy), "evaluation", _card(result))
    if not quiet:
        print_result(result, config.out)
    return result


def _training(name: str, policy: Any) -> dict[str, Any]:
    """How the policy was made, as far as it is known: recipe, steps, seed, verdicts on latents that it learned from."""
    from corpora.store.run import TRAINING

    record = read_json(Path(name) / TRAINING) or {}
    found = {"recipe": record.get("recipe"), **policy.measured.get("training", {})}
    facts = {fact: found.get(fact) for fact in ("recipe", "steps", "seed") if found.get(fact) is not None}
    return facts | {f"latents of {name}": said for name, said in verdicts_on_latents(policy.trained_on).items()}


def _comparable(before: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an evaluation.json that this version of giza would measure alike."""
    from jobs.evaluation.open_loop import OPEN_LOOP_FORMAT
    from jobs.evaluation.rollout_log import ROLLOUT_FORMAT

    kept = {}
    for part, name, here, remedy in (
        ("open_loop", "open_loop_format", OPEN_LOOP_FORMAT, "--data"),
        ("closed_loop", "rollout_format", ROLLOUT_FORMAT, "--benchmark and another --out"),
    ):
        if part not in before:
            continue
        there = before[part].get("settings", {}).get(name)
        if there == here:
            kept[part] = before[part]
        else:
            log.warning(
                "the %s in %s is left out: it is of format %s, this version measures format %d; measure it again with %s",
                part.replace("_", " "),
                RESULT,
                there,
                here,
                remedy,
            )
    return kept


def _open_loop(config: EvaluateConfig, policy: Any, embodiment: str, fingerprint: str, quiet: bool) -> dict[str, Any]:
    from corpora.episodes.contents import contents_fingerprint
    from corpora.episodes.opening import dataset_fingerprint
    from jobs.evaluation.open_loop import OPEN_LOOP_FORMAT
    from jobs.evaluation.recorded_chunks import RecordedEpisodes, measure_open_loop

    assert config.data is not None
    name = config.data.expanduser().resolve().name
    known = known_of(policy.trained_on, name, dataset_fingerprint(config.data))
    selection = _selection(config, known)
    settings = plain(
        {
            "fingerprint": fingerprint,
            "embodiment": embodiment,
            "data": name,
            "data_contents": contents_fingerprint(config.data),
            "every": config.every,
            "seed": config.seed,
            "plots": config.plots,
            "train_episodes": config.train_episodes,
            "open_loop_format": OPEN_LOOP_FORMAT,
            **vars(selection),
        }
    )
    before = (read_json(config.out / RESULT) or {}).get("open_loop", {})
    if before.get("settings") == settings:
        return before
    with bar("open loop", quiet=quiet) as progress:
        recorded = RecordedEpisodes(
            policy,
            embodiment,
            config.data,
            selection,
            train_episodes=config.train_episodes,
            stored=known.last,
            every=config.every,
            cache=config.cache,
            progress=progress,
        )
        standing = known.standing(recorded.chosen)
        if said := _TOLD.get(standing, "").format(
            name=name, seen=listed(sorted(set(recorded.chosen) & known.trained)), total=len(recorded.chosen)
        ):
            log.warning("%s", said)
        found = measure_open_loop(
            policy,
            embodiment,
            recorded,
            config.out,
            plots=config.plots,
            seed=config.seed,
            standing=standing,
            progress=progress,
        )
    return {"settings": settings, **plain(found.to_json())}


_TOLD = {
    "trained on": "all {total} episodes were trained on: their errors say how well they are remembered, not how good the policy is",
    "partly trained on": "of {total} episodes these were trained on: {seen}; leave them out to measure what was not seen",
    "not known": "whether these episodes were trained on is not known: the policy does not say, or '{name}' has changed since",
}


def _selection(config: EvaluateConfig, known: Known) -> EpisodeSelection:
    """The named episodes, or those that the policy's training held out. Raises ValueError where there are neither."""
    if config.selection.episodes or config.selection.demos:
        return config.selection
    if not known.held_out:
        raise ValueError(
            f"--data '{config.data}' without --episodes: the policy stores no held-out episodes of this dataset; name some that "
            "it was not trained on, e.g. --episodes 20:26"
        )
    return dataclasses.replace(config.selection, episodes=",".join(spans(known.held_out)))


def _libero(config: EvaluateConfig, policy: Any, embodiment: str, fingerprint: str, quiet: bool) -> dict[str, Any]:
    from corpora.simulation.libero.facts import EXECUTE, STARTS, LiberoLook
    from jobs.evaluation.libero import LiberoSettings, libero_loop

    settings = LiberoSettings(
        suite=config.suite,
        tasks=config.tasks,
        starts=config.starts or STARTS,
        execute=config.execute or EXECUTE,
        max_steps=config.max_steps,
        wait_steps=config.wait_steps,
        look=LiberoLook(config.size, config.shadows),
        videos=config.films,
        workers=config.workers,
        server=config.server,
        seed=config.seed,
    )
    with bar("rollouts", quiet=quiet) as progress:
        return libero_loop(
            policy,
            embodiment,
            settings,
            {"fingerprint": fingerprint, "embodiment": embodiment},
            config.out,
            progress=progress,
        )


def _metaworld(config: EvaluateConfig, policy: Any, embodiment: str, fingerprint: str, quiet: bool) -> dict[str, Any]:
    from corpora.simulation.settings import Look
    from jobs.evaluation.acting import metaworld_act, metaworld_view
    from jobs.evaluation.closed_loop import ClosedLoopSettings, closed_loop

    settings = ClosedLoopSettings(
        tasks=config.tasks,
        starts=config.starts or 20,
        execute=config.execute or 8,
        max_steps=config.max_steps or 250,
        language_check=config.language_check,
        look=Look(config.size, config.camera),
        view=metaworld_view(policy, embodiment, camera=config.camera),
        videos=config.films,
        workers=config.workers,
        slots=config.slots,
        seed=config.seed,
    )
    with bar("rollouts", quiet=quiet) as progress:
        return closed_loop(
            metaworld_act(policy, embodiment, seed=config.seed, camera=config.camera),
            settings,
            {"fingerprint": fingerprint, "embodiment": embodiment},
            config.out,
            step_s=policy.embodiment(embodiment).step_s,
            history_s=policy.config.history_s,
            progress=progress,
        )


def _card(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a result, what belongs on a model card: tables without single rollouts or dimensions."""
    kept: dict[str, Any] = {"embodiment": result["embodiment"], "seed": result["seed"]}
    kept["verdict"] = {part: verdict["headline"] for part, verdict in result["verdict"].items()}
    for part in ("open_loop", "closed_loop"):
        if part in result:
            kept[part] = {
                name: value for name, value in result[part].items() if not isinstance(value, list) and name not in _LONG
            }
    return kept


_LONG = ("settings", "squared_error_per_dimension", "normalised_squared_error_per_episode")


def print_result(result: Mapping[str, Any], out: Path) -> None:
    """What it says in words, then tables of what was measured, on the terminal."""
    from rich.console import Console
    from rich.text import Text

    from jobs.evaluation.page import PAGE
    from jobs.evaluation.tables import VERDICT_STYLES, closed_loop_tables, open_loop_table

    console = Console()
    for part, verdict in result["verdict"].items():
        title = part.replace("_", " ").capitalize()
        console.print(Text(f"{title}: {verdict['headline']}.", VERDICT_STYLES[verdict["kind"]]), soft_wrap=True)
    if "open_loop" in result:
        console.print(open_loop_table(result["open_loop"]))
    if "closed_loop" in result:
        for table in closed_loop_tables(result["closed_loop"]):
            console.print(table)
    console.print(f"{result['wall_s']:.0f} s -> {told(out / RESULT)}, {PAGE}", soft_wrap=True)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    check_benchmark(value_in(argv, "benchmark", "metaworld"))
    run(parse(EvaluateConfig, argv, job="evaluate"))
