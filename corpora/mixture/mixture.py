"""The data pyramid: a mixture of datasets, as a TOML file has it.

    name = "kitchen"

    [[dataset]]
    name = "hands"
    tier = "human"              # human, synthetic, neural or robot
    label = "latent"            # action, latent, inverse-dynamics, track or none
    corpus = "hands/corpus"     # folder of giza ingest
    latents = "hands/latents"   # folder of giza extract
    # shuffled = "within_text"  # a control: over clips of the same text; "over_clips": of all (of label "none" it is what
                                # follows that is exchanged). shuffle_seed: default 0
    weight = 1.0                # share in the mixture, of any sum
    align = 0.5                 # of FLARE's loss on these samples; default 1
    licence = "CC BY 4.0"

    [[dataset]]
    name = "demonstrations"
    tier = "robot"
    label = "action"
    dataset = "demonstrations"  # LeRobot or RLDS dataset
    demos = 3                   # of each instruction
    embodiment = "franka"

    [[dataset.action_parts]]    # where an action is not of one piece; see corpora/episodes/parts.py
    name = "arm"
    dims = "0:7"
    state_dims = "0:7"
    representation = "relative"
    [[dataset.action_parts]]
    name = "gripper"
    dims = [7]

Paths are relative to the file. A dataset with `hours` and without a path is one that is only drawn. [[member]] reads the same,
so do the labels actions, latents, pseudo-actions and unlabelled, and `folder` for `dataset`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from corpora.episodes.parts import parts_of
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.drawing import pyramid_svg, pyramid_text
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import LABELS, HandActions, Latents, PseudoActions, TrackActions, Unlabelled
from corpora.mixture.label_type import Label, PolicyLimits
from corpora.mixture.pseudo_actions import read_facts
from corpora.mixture.spec import Data, DatasetSpec, Planned
from corpora.mixture.survey import MixtureSurvey, survey_datasets
from corpora.store.remote import at_hand, url_in, url_of
from corpora.store.told import near

_WORDS = {word: kind for kind in LABELS for word in kind.words}
_TOLD = tuple(kind.words[0] for kind in LABELS)


@dataclass(frozen=True)
class MixtureSpec:
    """Datasets that are trained on together. Two are joined by `+`; in a notebook it draws itself."""

    datasets: tuple[DatasetSpec, ...]
    name: str = ""

    def __add__(self, other: MixtureSpec) -> MixtureSpec:
        """The datasets of both, in this order. Raises ValueError where both have one of the same name."""
        joined = MixtureSpec((*self.datasets, *other.datasets), self.name or other.name)
        raise_faults(joined.name or "mixture", _given_twice([spec.name for spec in joined.datasets]))
        return joined

    def of_tier(self, *tiers: str) -> MixtureSpec:
        """Only the datasets of these tiers."""
        return replace(self, datasets=tuple(spec for spec in self.datasets if spec.tier in tiers))

    def mapped(self, change: Callable[[DatasetSpec], DatasetSpec]) -> MixtureSpec:
        """Each dataset changed."""
        return replace(self, datasets=tuple(change(spec) for spec in self.datasets))

    def labelled(self, label: Label | str | Path) -> MixtureSpec:
        """The same data under another label: a Label, or the folder of `giza extract` or `giza label` that holds them.

        Pseudo-actions bring their robot's embodiment. Raises ValueError for a folder that holds neither.
        """
        found = label if isinstance(label, Label) else _label_at(Path(label).expanduser())
        return self.mapped(lambda spec: spec.labelled(found))

    def shuffled(self, seed: int = 0, *, within_text: bool = False) -> MixtureSpec:
        """The control: labels permuted over clips, `within_text`: over those of the same text, so that they still tell the
        task. Raises ValueError for labels that are none of clips."""
        return self.mapped(lambda spec: replace(spec, label=spec.label.shuffled(seed, within_text=within_text)))

    def weighing(self, total: float) -> MixtureSpec:
        """With weights of this sum, in the same ratio."""
        now = sum(spec.weight for spec in self.datasets)
        return self.mapped(lambda spec: replace(spec, weight=spec.weight * total / now))

    def fingerprints(self) -> dict[str, str]:
        """Name -> fingerprint of each dataset that is trained on, wherever it lies: the metadata of its episodes, or its corpus
        and what made its labels. Raises ValueError for one that cannot be read, naming it."""
        found = {}
        for spec in self.datasets:
            if spec.weight > 0 and not spec.planned:
                with spec.errors_named():
                    found[spec.name] = spec.data.fingerprint(spec.label)
        return found

    def contents_fingerprints(self) -> dict[str, str]:
        """Name -> fingerprint of the rows and videos of each dataset of episodes that is trained on; a corpus' clips are named by
        what they show."""
        found = {spec.name: spec.data.contents_fingerprint() for spec in self.datasets if spec.weight > 0}
        return {name: fingerprint for name, fingerprint in found.items() if fingerprint}

    def survey(self, *, steps: int = 0, batch_size: int = 0, limits: PolicyLimits | None = None) -> MixtureSurvey:
        """What it holds, dataset by dataset and tier by tier; see `survey_datasets`."""
        return survey_datasets(self.datasets, self.name, steps=steps, batch_size=batch_size, limits=limits)

    def svg(self) -> str:
        """The pyramid as SVG. Raises ValueError for a mixture without datasets."""
        return pyramid_svg(self.survey())

    def _repr_svg_(self) -> str:
        return self.svg()

    def __str__(self) -> str:
        return pyramid_text(self.survey())


def read_mixture(path: str | Path, *, embodiments: tuple[str, ...] = ()) -> MixtureSpec:
    """The mixture in a TOML file. Raises ValueError that names all faults together, one a line.

    `embodiments`: those that are known; empty: any.
    """
    mixture, faults = read_sound_datasets(path, embodiments=embodiments)
    raise_faults(str(path), faults)
    return mixture


def read_sound_datasets(path: str | Path, *, embodiments: tuple[str, ...] = ()) -> tuple[MixtureSpec, list[str]]:
    """As `read_mixture`, for who looks for further faults: the datasets that are sound so far, and the faults of the
    others. Raises ValueError for a file that is no TOML or has no dataset."""
    path = at_hand(path).expanduser()
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"pyramid file '{path}': {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"pyramid file '{path}' is no TOML: {error}") from error
    tables = [*_tables(values, "member"), *_tables(values, "dataset")]
    if not tables:
        raise ValueError(f"{path}: no [[dataset]]; a pyramid has at least one")
    faults = [f"unknown key '{key}'{near(key, _TOP)}" for key in values if key not in _TOP]
    formed: list[dict[str, Any]] = []
    sound: list[DatasetSpec] = []
    for number, table in enumerate(tables):
        title = f"dataset '{table.get('name', number) if isinstance(table, dict) else number}'"
        wrong = _form_faults(table)
        if not wrong:
            formed.append(table)
            spec, wrong = _spec(table, path.parent, embodiments)
            if spec is not None and not wrong:
                sound.append(spec)
        faults += [f"{title}: {fault}" for fault in wrong]
    drawn = [table["name"] for table in formed if _planned(table)]
    faults += _given_twice([table["name"] for table in formed])
    if formed and not any(table.get("weight", 1.0) > 0 for table in formed):
        faults.append("no dataset has a weight above 0")
    if drawn and len(drawn) != len(formed):
        faults.append(
            f"dataset '{drawn[0]}' has hours but no data, others have data: draw or train, not both in one file"
        )
    return MixtureSpec(tuple(sound), str(values.get("name", ""))), faults


def raise_faults(where: str, faults: Sequence[str]) -> None:
    """Raises ValueError that names all of them, where there are any."""
    if faults:
        raise ValueError(f"{where}: {len(faults)} faults:\n  " + "\n  ".join(faults))


_TOP = ("name", "dataset", "member")
_ALIASES = {"folder": "dataset", "shuffle_seed": "shuffle_latents_seed"}
"""Two words for one key."""
_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "a string"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "path": (str, "a string"),
    "strings": (tuple, "a list of strings"),
    "tables": (dict, "tables"),
}
_LABEL_KEYS = {key: kind for label in LABELS for key, (_, kind) in label.toml_keys().items()}
_SELECTION_KEYS = {
    item.name: {"tuple[str, ...]": "strings"}.get(str(item.type), str(item.type)) for item in fields(EpisodeSelection)
}
_SPEC_KEYS = {
    "name": "str",
    "tier": "str",
    "weight": "float",
    "align": "float",
    "embodiment": "str",
    "licence": "str",
    "source": "str",
}
_KEYS = {
    **_SPEC_KEYS,
    "label": "str",
    "dataset": "str",
    "folder": "str",
    "corpus": "str",
    "hours": "float",
    **_SELECTION_KEYS,
    **_LABEL_KEYS,
    "shuffle_seed": "int",
}


def _planned(table: dict[str, Any]) -> bool:
    return table.get("hours", 0) > 0 and not any(table.get(key) for key in ("dataset", "folder", "corpus"))


def _spec(table: dict[str, Any], place: Path, embodiments: tuple[str, ...]) -> tuple[DatasetSpec, list[str]]:
    """The dataset of a table of good form, and what is wrong with it."""
    word = table["label"]
    given = {_ALIASES.get(key, key): value for key, value in table.items()}
    faults = [] if word in _WORDS else [f"label '{word}' is none of {', '.join(_TOLD)}{near(word, tuple(_WORDS))}"]
    kind = _WORDS.get(word, Unlabelled)
    if word in _WORDS:
        faults += [
            f"{key} is for label '{_owner(key).words[0]}', not '{word}': leave it out"
            for key in _LABEL_KEYS
            if key in given and key not in kind.toml_keys()
        ]
    label_values: dict[str, Any] = {}
    for key, (name, form) in kind.toml_keys().items():
        if given.get(key, "") == "":
            continue
        try:
            label_values[name] = _READ.get(form, lambda _, value: value)(place, given[key])
        except ValueError as error:
            faults.append(str(error))
    selection: dict[str, Any] = {}
    for key in [key for key in _SELECTION_KEYS if key in given]:
        value = tuple(given[key]) if isinstance(given[key], list) else given[key]
        try:
            one: dict[str, Any] = {key: value}
            EpisodeSelection(**one)
            selection |= one
        except ValueError as error:
            faults.append(str(error))
    choices: list[Data] = []
    if given.get("dataset"):
        choices.append(EpisodesAt(_path(place, given["dataset"]), EpisodeSelection(**selection)))
    elif selection:
        faults.append(f"{', '.join(selection)}: for a dataset of episodes only; leave it out")
    if given.get("corpus"):
        choices.append(ClipsAt(_path(place, given["corpus"])))
    if len(choices) != 1 and not _planned(table):
        faults.append("give either a dataset (LeRobot, RLDS) or a corpus (giza ingest), or hours to have it drawn only")
    own: dict[str, Any] = {
        key: float(given[key]) if form == "float" else given[key] for key, form in _SPEC_KEYS.items() if key in given
    }
    data = choices[0] if choices else Planned(float(given.get("hours", 0.0)))
    spec = DatasetSpec(data=data, label=kind(**label_values), **own)
    faults += spec.faults(embodiments)
    return spec, faults + [fault for other in choices[1:] for fault in other.faults()]


def _path(place: Path, value: str) -> Path:
    """`place`: of the pyramid file, that may itself be the copy of one behind a URL."""
    path = place / Path(value).expanduser()
    return at_hand(url_in(value) or url_of(path) or path)


_READ: dict[str, Callable[[Path, Any], Any]] = {"path": _path, "tables": lambda _, tables: parts_of(tables)}
"""How what a label's key holds becomes the label's field."""


def _owner(key: str) -> type[Label]:
    return next(kind for kind in LABELS if key in kind.toml_keys())


def _given_twice(names: Sequence[str]) -> list[str]:
    return [f"dataset '{name}': the name is given twice" for name in sorted({n for n in names if names.count(n) > 1})]


def _label_at(folder: Path) -> Label:
    """The labels in a folder, by the file that their job writes last."""
    if (folder / Latents.marker).is_file():
        return Latents(folder)
    if (folder / PseudoActions.marker).is_file():
        by = {kind.words[0]: kind for kind in (PseudoActions, TrackActions, HandActions)}
        return by.get(read_facts(folder).by, PseudoActions)(folder)
    raise ValueError(
        f"'{folder}' holds no finished labels: neither {Latents.marker} of giza extract nor {PseudoActions.marker} of "
        "giza label"
    )


def _tables(values: dict[str, Any], key: str) -> list[Any]:
    found = values.get(key, [])
    return found if isinstance(found, list) else [found]


def _form_faults(table: Any) -> list[str]:
    """Keys that there are not, that lack, and that hold something of another kind."""
    if not isinstance(table, dict):
        return ["must be a table"]
    faults = [f"unknown key '{key}'{near(key, tuple(_KEYS))}" for key in table if key not in _KEYS]
    faults += [f"lacks '{key}'" for key in ("name", "tier", "label") if key not in table]
    for key, value in table.items():
        if key not in _KEYS:
            continue
        kind, form = _KINDS[_KEYS[key]]
        if kind in (tuple, dict):
            item_kind = str if kind is tuple else dict
            fits = isinstance(value, list) and all(isinstance(item, item_kind) for item in value)
        else:
            numbers = (int, float) if kind is float else kind
            fits = isinstance(value, numbers) and isinstance(value, bool) == (kind is bool)
        if not fits:
            faults.append(f"{key} {value!r} must be {form}")
    return faults
