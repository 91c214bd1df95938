"""How good is this policy? Open loop on held-out episodes, closed loop in Meta-World, with intervals, plots and films."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes

from corpora.episodes.episode import ALL_EPISODES, EpisodeSelection
from corpora.store.files import plain, read_json, write_json
from jobs.cli import parse

log = logging.getLogger(__name__)

RESULT = "evaluation.json"
ROLLOUTS = "rollouts.jsonl"
FILMS = "films"


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a policy: --data for recorded episodes, --metaworld for rollouts, or both."""

    policy: str
    """Run folder of giza pretrain or giza ground, or a name on the hub."""
    out: Path
    """Folder for evaluation.json, plots and films; the same command again resumes."""
    embodiment: str = ""
    """Robot that acts; may be left out where the policy knows only one."""
    data: Path | None = None
    """LeRobot or RLDS dataset for the open loop."""
    selection: OmitArgPrefixes[EpisodeSelection] = ALL_EPISODES
    """With --data: what is held out. Cameras, state and action that are not named are those of the policy's names."""
    train_episodes: str = ""
    """With --data: episodes behind the baselines; default: all that are not held out."""
    every: int = 2
    """With --data: predict a chunk at every k-th row."""
    plots: int = 3
    """With --data: held-out episodes whose trajectories are drawn."""
    metaworld: bool = False
    """Closed loop in Meta-World."""
    tasks: tuple[str, ...] = ()
    """With --metaworld: tasks; default: the six that giza simulate makes."""
    starts: int = 20
    """With --metaworld: unseen starts of each task."""
    execute: int = 8
    """With --metaworld: steps of a chunk that are executed before the next is asked for."""
    max_steps: int = 250
    """With --metaworld: control steps (of 12.5 ms) after which a rollout has failed."""
    language_check: bool = False
    """With --metaworld: tell each start of the faucet tasks both instructions, and none."""
    size: int = 96
    """With --metaworld: pixels of the rendered pictures, as the training data were rendered; the policy sees them resized."""
    camera: str = "head"
    """With --metaworld: the camera of the training data."""
    films: int = 1
    """With --metaworld: starts of each task and instruction that are filmed."""
    workers: int = 2
    """With --metaworld: processes of environments."""
    slots: int = 6
    """With --metaworld: environments of each process that play side by side."""
    cache: Path | None = None
    """Folder for decoded pictures; default GIZA_CACHE, else the user's cache."""
    device: str = ""
    """cpu or cuda; default: the GPU where there is one."""
    threads: int = 0
    """Cores of the model; 0: all."""
    seed: int = 0
    """Of starts, noise and resamples: the same starts for every policy."""

    def __post_init__(self) -> None:
        if self.data is None and not self.metaworld:
            raise ValueError("nothing to evaluate on: give --data and --episodes (open loop), --metaworld, or both")
        if self.data is not None and not (self.selection.episodes or self.selection.demos):
            raise ValueError("--data without --episodes: name those that the policy was not trained on, e.g. 20:26")
        if self.data is None:
            chosen = {**vars(self.selection), "train_episodes": self.train_episodes}
            for name in ("episodes", "demos", "train_episodes", "cameras", "state", "action", "previous_action"):
                if chosen[name]:
                    raise ValueError(f"--{name.replace('_', '-')} without --data: it chooses from a dataset")
        if not self.metaworld and (self.tasks or self.language_check):
            raise ValueError("--tasks and --language-check are of the closed loop: add --metaworld")
        for name, least in (("every", 1), ("plots", 0), ("starts", 1), ("execute", 1), ("films", 0), ("threads", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least {least}")


def run(config: EvaluateConfig, *, quiet: bool = False) -> dict[str, Any]:
    """Evaluates what is still missing, writes evaluation.json and returns it.

    Raises ValueError for a policy, dataset or task there is not, and for an `out` that holds another evaluation.
    """
    import torch

    from jobs.evaluation.acting import embodiment_of, load_acting

    started = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    policy, fingerprint = load_acting(config.policy, device=config.device)
    embodiment = embodiment_of(policy, config.embodiment)
    config.out.mkdir(parents=True, exist_ok=True)
    before = read_json(config.out / RESULT) or {}
    # what was measured of the same policy by another call of this job stays
    kept = (
        _comparable(before)
        if (before.get("fingerprint"), before.get("embodiment")) == (fingerprint, embodiment)
        else {}
    )
    result: dict[str, Any] = {
        **kept,
        "policy": config.policy,
        "fingerprint": fingerprint,
        "embodiment": embodiment,
        "seed": config.seed,
    }
    if config.data is not None:
        result["open_loop"] = _open_loop(config, policy, embodiment, fingerprint, quiet)
    if config.metaworld:
        result["closed_loop"] = _closed_loop(config, policy, embodiment, fingerprint, quiet)
    result["wall_s"] = round(time.monotonic() - started, 1)
    write_json(config.out / RESULT, result)
    if Path(config.policy).is_dir():  # the model card holds what was measured
        from vla.checkpoint import record_measured

        record_measured(Path(config.policy), "evaluation", _card(result))
    if not quiet:
        print_result(result, config.out)
    return result


def _comparable(before: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of an evaluation.json that this version of giza would measure alike."""
    from jobs.evaluation.closed_loop import ROLLOUT_FORMAT

    kept = {part: before[part] for part in ("open_loop", "closed_loop") if part in before}
    there = kept.get("closed_loop", {}).get("settings", {}).get("rollout_format")
    if "closed_loop" in kept and there != ROLLOUT_FORMAT:
        log.warning(
            "the closed loop in %s is left out: its rollouts are of format %s, those of this version of %d; measure it again "
            "with --metaworld and another --out",
            RESULT,
            there,
            ROLLOUT_FORMAT,
        )
        del kept["closed_loop"]
    return kept


def _open_loop(config: EvaluateConfig, policy: Any, embodiment: str, fingerprint: str, quiet: bool) -> dict[str, Any]:
    from jobs.evaluation.open_loop import Baselines, compare
    from jobs.evaluation.plots import plot_errors, plot_trajectories
    from jobs.evaluation.recorded_chunks import RecordedEpisodes

    assert config.data is not None
    settings = json.loads(
        json.dumps(
            {
                "fingerprint": fingerprint,
                "embodiment": embodiment,
                "data": config.data.expanduser().resolve().name,
                "every": config.every,
                "seed": config.seed,
                "plots": config.plots,
                "train_episodes": config.train_episodes,
                **vars(config.selection),
            }
        )
    )
    before = (read_json(config.out / RESULT) or {}).get("open_loop", {})
    # one without rules is of a version that took displacements for targets
    if before.get("settings") == settings and "hold_still_is" in before:
        return before
    with _Bar("open loop", quiet) as tell:
        recorded = RecordedEpisodes(
            policy,
            embodiment,
            config.data,
            config.selection,
            train_episodes=config.train_episodes,
            every=config.every,
            cache=config.cache,
            progress=tell,
        )
        predicted = recorded.predict(policy, embodiment, seed=config.seed, progress=tell)
    baselines = Baselines(recorded.train, recorded.held_by)
    methods: dict[str, Any] = {"policy": predicted, **baselines.predict(recorded.held)}
    result = compare(methods, recorded.held, baselines.std, recorded.action_names, seed=config.seed)
    plot_errors(result, config.out / "open_loop_errors.png", baselines.still_rules)
    episodes = list(dict.fromkeys(recorded.held.episode.tolist()))[: config.plots]
    for episode in episodes:
        path = config.out / f"open_loop_episode_{episode:06d}.png"
        plot_trajectories(result, recorded.held, predicted, episode, recorded.step_s, path)
    return {"settings": settings, **plain(result.to_json()), "hold_still_is": list(baselines.still_rules)}


def _closed_loop(config: EvaluateConfig, policy: Any, embodiment: str, fingerprint: str, quiet: bool) -> dict[str, Any]:
    from corpora.simulation.metaworld import Look
    from corpora.simulation.tasks import DEFAULT_TASKS, INSTRUCTIONS, task_names
    from jobs.evaluation.acting import metaworld_act
    from jobs.evaluation.closed_loop import (
        FAUCET_TASKS,
        Rollout,
        RolloutLog,
        StepCounter,
        evaluate_metaworld,
        language_instructions,
        language_shares,
        success_shares,
    )
    from jobs.evaluation.videos import contact_sheet, write_film

    tasks = task_names(config.tasks or DEFAULT_TASKS)
    if config.language_check and not set(tasks) & set(FAUCET_TASKS):
        raise ValueError(f"--language-check: it needs one of {', '.join(FAUCET_TASKS)} among --tasks")
    act = metaworld_act(policy, embodiment, seed=config.seed)
    step_s = policy.step_s(embodiment)
    settings = {
        "fingerprint": fingerprint,
        "embodiment": embodiment,
        "seed": config.seed,
        "execute": config.execute,
        "max_steps": config.max_steps,
        "size": config.size,
        "camera": config.camera,
    }
    played = RolloutLog(config.out / ROLLOUTS, settings)
    told = language_instructions() if config.language_check else {}
    wanted = {
        (task, start, text)
        for task in tasks
        for start in range(config.starts)
        for text in told.get(task, (INSTRUCTIONS[task],))
    }
    count = StepCounter()
    with _Bar("rollouts", quiet) as tell:
        had = len(wanted & played.done())
        tell(had, len(wanted))

        def done(rollout: Rollout) -> None:
            count(rollout)
            if rollout.frames is not None:  # before the log says that there is nothing left to do
                write_film(config.out / FILMS, rollout)
            played.add(rollout)
            tell(len(wanted & played.done()), len(wanted))

        evaluate_metaworld(
            act,
            tasks,
            config.starts,
            look=Look(config.size, config.camera),
            execute=config.execute,
            max_steps=config.max_steps,
            seed=config.seed,
            workers=config.workers,
            slots=config.slots,
            instructions=told,
            step_s=step_s,
            history_s=policy.config.history_s,
            skip=played.done(),
            film=config.films,
            done=done,
        )
    order = {
        key: place
        for place, key in enumerate(
            (t, s, i) for t in tasks for i in told.get(t, (INSTRUCTIONS[t],)) for s in range(config.starts)
        )
    }
    rollouts = sorted((each for each in played.rollouts if each.key in order), key=lambda each: order[each.key])
    contact_sheet(config.out / FILMS, rollouts, config.out / "contact_sheet.png")
    result: dict[str, Any] = {
        "settings": {**played.settings, "step_s": step_s, "starts": config.starts},
        "success": {name: share.to_json() for name, share in success_shares(rollouts).items()},
        "mean_seconds": _mean_seconds(rollouts),
        "control_steps_per_s": round(count.per_s, 1) if count.steps else None,
    }
    if config.language_check:
        result["language"] = {name: share.to_json() for name, share in language_shares(rollouts).items()}
    return plain(result)


def _mean_seconds(rollouts: Sequence[Any]) -> dict[str, float | None]:
    """Task -> robot's seconds to success, of the rollouts that had it."""
    seconds: dict[str, list[float]] = {}
    for rollout in rollouts:
        seconds.setdefault(rollout.task, [])
        if rollout.success:
            seconds[rollout.task].append(rollout.seconds)
    return {task: sum(values) / len(values) if values else None for task, values in seconds.items()}


class _Bar:
    """A progress bar that is told (done, total); silent where `quiet`."""

    def __init__(self, title: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        self._progress.update(self._task, completed=done, total=total)


def _card(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a result, what belongs on a model card: tables without single rollouts or dimensions."""
    kept: dict[str, Any] = {"embodiment": result["embodiment"], "seed": result["seed"]}
    for part in ("open_loop", "closed_loop"):
        if part in result:
            kept[part] = {
                name: value
                for name, value in result[part].items()
                if not isinstance(value, list) and name not in ("settings", "squared_error_per_dimension")
            }
    return kept


def print_result(result: Mapping[str, Any], out: Path) -> None:
    """Tables of what was measured, on the terminal."""
    from rich.console import Console

    from jobs.evaluation.tables import closed_loop_tables, open_loop_table

    console = Console()
    if "open_loop" in result:
        console.print(open_loop_table(result["open_loop"]))
    if "closed_loop" in result:
        for table in closed_loop_tables(result["closed_loop"]):
            console.print(table)
    console.print(f"{result['wall_s']:.0f} s -> {out / RESULT}", soft_wrap=True)


def main(argv: Sequence[str]) -> None:
    """The job's command line."""
    run(parse(EvaluateConfig, argv, job="evaluate"))
