"""The jobs as functions: keyword arguments to a job's config, opened objects to the folders that it reads, its summary to a
result."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from corpora.store.inputs import with_copies
from corpora.store.told import closest
from jobs.cli import Recipes, Sets
from jobs.results import CorpusResult, EvaluationResult, LamResult, PolicyResult, Result

if TYPE_CHECKING:
    from corpora.agent.painting import Agent
    from corpora.agent.source import TrackSource
    from corpora.clips.corpus import Corpus
    from corpora.episodes.parts import ActionPart
    from corpora.mixture.mixture import MixtureSpec
    from jobs.ablation.arms import Arm
    from jobs.ablation.study import Study
    from jobs.ablation.tiers import Tiers
    from jobs.evaluation.side_by_side import EvaluationComparison
    from lapa.reporting.card import Card
    from lapa.reporting.comparison import Comparison
    from vla.policy import Policy

Config = TypeVar("Config")
Place = str | Path | Result
FLAT = ("selection", "settings", "paint", "rows")
"""Fields of a config whose own fields are given beside it, as on the command line."""


def ingest(inputs: str | Path | Sequence[str | Path], out: str | Path, **fields: Any) -> CorpusResult:
    """`giza ingest`: video files, folders, globs or lists to a corpus of clips."""
    from jobs.commands.ingest import IngestConfig, run

    several = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    config = configured(IngestConfig, {"inputs": [str(each) for each in several], "out": out, **fields})
    return CorpusResult(config.out, run(config))


def simulate(out: str | Path, **fields: Any) -> Result:
    """`giza simulate`: Meta-World or LIBERO video with known actions, as a LeRobot dataset."""
    if fields.get("benchmark") == "libero":
        from jobs.commands import simulate_libero

        demonstrations = configured(simulate_libero.LiberoSimulateConfig, {"out": out, **fields})
        return Result(demonstrations.out, simulate_libero.run(demonstrations))
    from jobs.commands.simulate import SimulateConfig, run

    config = configured(SimulateConfig, {"out": out, **fields})
    return Result(config.out, run(config))


def multiply(demos: Place, into: int, out: str | Path, **fields: Any) -> Result:
    """`giza multiply`: simulated demonstrations in new scenes, `into` of each task, as a LeRobot dataset."""
    from jobs.commands.multiply import MultiplyConfig, run

    config = configured(MultiplyConfig, {"demos": demos, "into": into, "out": out, **fields})
    return Result(config.out, run(config))


def train_lam(
    corpus: Place | Corpus | list[Place] | tuple[Place, ...], out: str | Path, *, recipe: str = "small", **fields: Any
) -> LamResult:
    """`giza train-lam`: a latent action model on a corpus, or several; its `model` is a `LatentActionModel`."""
    from jobs.commands.train_lam import TrainLamConfig, run
    from lapa.recipes import RECIPES

    recipes = {name: vars(each) for name, each in RECIPES.items()}
    config = configured(TrainLamConfig, {"corpus": corpus, "out": out, **fields}, recipe=recipe, recipes=recipes)
    return LamResult(config.out, run(config))


def extract(lam: Place, corpus: Place | Corpus, out: str | Path, **fields: Any) -> Result:
    """`giza extract`: the latent actions of a corpus, as Parquet."""
    from jobs.commands.extract import ExtractConfig, run

    config = configured(ExtractConfig, {"lam": lam, "corpus": corpus, "out": out, **fields})
    return Result(config.out, run(config))


def report(lam: Place | None, corpus: Any, latents: Any, out: str | Path, **fields: Any) -> Card:
    """`giza report`: the report card of a model and its latents, also as report.json and report.html. Several corpora, a list,
    go with as many folders of latents. `lam` None: of latents whose model is not at hand, or that another trainer wrote."""
    from jobs.commands.report import ReportConfig, run

    return run(configured(ReportConfig, {"lam": lam, "corpus": corpus, "latents": latents, "out": out, **fields}))


def export(
    out: str | Path, *, latents: Place | None = None, corpus: Place | Corpus | None = None, **fields: Any
) -> Result:
    """`giza export`: latents and their corpus, or a LeRobot `dataset`, as a dataset that other trainers read."""
    from jobs.commands.export import ExportConfig, run

    config = configured(ExportConfig, {"out": out, "latents": latents, "corpus": corpus, **fields})
    return Result(config.out, run(config))


def compare(runs: Sequence[Place], out: str | Path, **fields: Any) -> Comparison | EvaluationComparison:
    """`giza compare`: reports, or evaluations, that were asked the same, side by side; also as compare.json and compare.html."""
    from jobs.commands.compare import CompareConfig, run

    return run(configured(CompareConfig, {"runs": [folder_of(each) for each in runs], "out": out, **fields}))


def track(corpus: Place | Corpus, out: str | Path, *, opened: TrackSource | None = None, **fields: Any) -> Result:
    """`giza track`: where the agent is in every frame of a corpus. `opened`: a source of your own instead of `source`."""
    from jobs.commands.track import TrackConfig, run

    config = configured(TrackConfig, {"corpus": corpus, "out": out, **fields})
    return Result(config.out, run(config, source=opened))


def crosspaint(
    corpus: Place | Corpus, tracks: Place, out: str | Path, *, opened: Agent | None = None, **fields: Any
) -> CorpusResult:
    """`giza crosspaint`: a corpus in which another agent acts. `opened`: an agent of your own instead of `agent`."""
    from jobs.commands.crosspaint import CrosspaintConfig, run

    config = configured(CrosspaintConfig, {"corpus": corpus, "tracks": tracks, "out": out, **fields})
    return CorpusResult(config.out, run(config, agent=opened))


def label(out: str | Path, **fields: Any) -> Result:
    """`giza label`: pseudo-actions of a corpus by an inverse dynamics model, or by its tracks."""
    from jobs.commands.label import LabelConfig, run

    config = configured(LabelConfig, {"out": out, **fields})
    return Result(config.out, run(config))


def pretrain(
    mixture: str | Path | MixtureSpec,
    out: str | Path,
    *,
    recipe: str = "small",
    policy: Place | Policy = "",
    **fields: Any,
) -> PolicyResult:
    """`giza pretrain`: a policy on a mixture, which is a pyramid file or what was read from one."""
    from jobs.commands.pretrain import PretrainConfig, run
    from jobs.training.settings import SETS
    from vla.recipes import FIELDS

    opened = None if isinstance(mixture, str | Path) else mixture
    given = {
        "pyramid": Path() if opened is not None else mixture,
        "out": out,
        "policy": saved(policy, Path(out) / "start"),
        **fields,
    }
    config = configured(PretrainConfig, given, recipe=recipe, recipes=FIELDS, sets=SETS)
    return PolicyResult(config.out, run(config, mixture=opened))


def ground(
    data: Place,
    out: str | Path,
    *,
    recipe: str = "small",
    policy: Place | Policy = "",
    action_parts: Sequence[ActionPart] = (),
    **fields: Any,
) -> PolicyResult:
    """`giza ground`: fine-tunes a policy on demonstrations of one robot, or trains one from scratch. `action_parts` are what
    the command reads from a file."""
    from jobs.commands.ground import GroundConfig, run
    from jobs.training.settings import SETS
    from vla.recipes import FIELDS

    given = {"data": data, "out": out, "policy": saved(policy, Path(out) / "start"), **fields}
    config = configured(GroundConfig, given, recipe=recipe, recipes=FIELDS, sets=SETS)
    return PolicyResult(config.out, run(config, action_parts))


def evaluate(
    policy: Place | Policy, out: str | Path, *, data: Place | None = None, quiet: bool = False, **fields: Any
) -> EvaluationResult:
    """`giza evaluate`: open loop on recorded episodes, closed loop in Meta-World or LIBERO."""
    from jobs.commands.evaluate import EvaluateConfig, run

    given = {"policy": saved(policy, Path(out) / "policy"), "out": out, "data": data, **fields}
    config = configured(EvaluateConfig, given)
    return EvaluationResult(config.out, run(config, quiet=quiet))


def ablate(
    out: str | Path,
    *,
    arms: Sequence[str | Arm] = (),
    tiers: Tiers | None = None,
    recipe: str = "",
    **fields: Any,
) -> Study:
    """`giza ablate`: which tier buys what. `arms` by name or your own; `tiers` as `jobs.ablation.prepare` made them, which are
    of design joint. `recipe`: default demo, and joint_demo for such tiers.

    Raises ValueError where `tiers` lie in another folder than `out`, and beside a recipe of another design.
    """
    from jobs.ablation.config import RECIPES, AblateConfig
    from jobs.ablation.running import run
    from jobs.ablation.study import Study

    given: dict[str, Any] = {"out": out, **fields}
    if tiers is not None:
        if tiers.out != Path(out).resolve():
            raise ValueError(f"out '{out}': the tiers lie in '{tiers.out}'; choose that folder")
        given |= {"tasks": tiers.tasks, "data": tiers.data}
    if arms:
        given["arms"] = [arm if isinstance(arm, str) else arm.name for arm in arms]
    recipe = recipe or ("demo" if tiers is None else "joint_demo")
    config = configured(AblateConfig, given, recipe=recipe, recipes=RECIPES)
    if tiers is not None and config.design != tiers.design:
        raise ValueError(
            f"recipe '{recipe}' is of design {config.design}, which makes data of its own, and tiers are of design "
            f"{tiers.design}: choose recipe 'joint_demo' or 'joint', or leave tiers out"
        )
    return Study(run(config, [arm for arm in arms if not isinstance(arm, str)]), folder=config.out)


def configured(
    config_type: type[Config],
    given: Mapping[str, Any],
    *,
    recipe: str = "",
    recipes: Recipes | None = None,
    sets: Sets = MappingProxyType({}),
) -> Config:
    """The config with what is `given` over the recipe's fields and those that another argument `sets`: a dictionary changes
    some fields of a nested config, a list is a tuple, what was opened from a folder is that folder, the fields of `FLAT` are
    given beside it. Raises ValueError for a recipe
    or a field there is not."""
    values: dict[str, Any] = {}
    if recipes is not None:
        if recipe not in recipes:
            raise ValueError(f"recipe '{recipe}': {closest(recipe, recipes)}")
        values = {"recipe": recipe, **recipes[recipe]}
        for flag in sets:
            values |= sets[flag](value, recipes[recipe]) if (value := _value_at(given, flag)) else {}
    known = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    for name, value in given.items():
        inside = next((flat for flat in FLAT if name not in known and hasattr(_start(known.get(flat)), name)), None)
        if name not in known and inside is None:
            raise ValueError(f"no field '{name}' of this job. {closest(name, known)}")
        if inside is not None:
            values[inside] = _changed(values.get(inside, _start(known[inside])), {name: value})
        elif isinstance(value, Mapping):
            values[name] = _changed(values.get(name, _start(known[name])), value)
        else:
            values[name] = _plain(value, str(known[name].type))
    return with_copies(config_type(**values))


def folder_of(place: Any) -> Path:
    """Of a path, a result of this module, or something that was opened from a folder and says which."""
    return Path(place if isinstance(place, str | Path) else place.folder)


def saved(policy: Any, folder: Path) -> str:
    """A policy by its run folder or hub name; one in memory is written to `folder` first."""
    if isinstance(policy, str | Path | Result):
        return str(policy.folder if isinstance(policy, Result) else policy)
    policy.save_pretrained(folder)
    return str(folder)


def _start(field: dataclasses.Field[Any] | None) -> Any:
    """What a config begins with in this field."""
    if field is None:
        return None
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _value_at(given: Mapping[str, Any], flag: str) -> Any:
    """What `given` says of a field, "model.vlm.name" of one inside of others; None where it says nothing."""
    found: Any = given
    for name in flag.split("."):
        found = found.get(name) if isinstance(found, Mapping) else getattr(found, name, None)
    return found


def _changed(config: Any, changes: Mapping[str, Any]) -> Any:
    kinds = {field.name: str(field.type) for field in dataclasses.fields(config)}
    values = {}
    for name, value in changes.items():
        if name not in kinds:
            raise ValueError(f"{type(config).__name__} has no field '{name}'. {closest(name, list(kinds))}")
        nested = isinstance(value, Mapping) and dataclasses.is_dataclass(getattr(config, name))
        values[name] = _changed(getattr(config, name), value) if nested else _plain(value, kinds[name])
    return dataclasses.replace(config, **values)


def _plain(value: Any, kind: str) -> Any:
    if isinstance(value, list | tuple):
        return tuple(_plain(each, kind) for each in value)
    return folder_of(value).expanduser() if kind.startswith("Path") and value is not None else value
