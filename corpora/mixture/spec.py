"""The pyramid as a TOML file: tiers, their members, and what is known of each.

    [[member]]
    name = "hands"
    tier = "human"              # human, synthetic, neural or robot
    label = "latent"            # action, latent, inverse-dynamics or none
    corpus = "hands/corpus"     # folder of giza ingest
    latents = "hands/latents"   # folder of giza extract
    weight = 1.0                # share in the mixture, of any sum
    embodiment = "latent"       # slot of the policy
    licence = "CC BY 4.0"

    [[member]]
    name = "demonstrations"
    tier = "robot"
    label = "action"
    dataset = "demonstrations"  # LeRobot or RLDS dataset
    demos = 3                   # of each instruction
    embodiment = "franka"

Paths are relative to the file. A member with `hours` and without a path is one that is only drawn.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from corpora.episodes.episode import EpisodeSelection, named_episodes
from corpora.episodes.rlds import is_rlds

Tier = Literal["human", "synthetic", "neural", "robot"]
Label = Literal["action", "latent", "inverse-dynamics", "none"]
TIERS: tuple[str, ...] = get_args(Tier)
"""From the base to the top."""
LABELS: tuple[str, ...] = get_args(Label)
REPRESENTATIONS = ("absolute", "delta", "relative")
NORMALISATIONS = ("min_max", "mean_std", "q01_q99")


@dataclass(frozen=True)
class PyramidMember:
    """One entry of the file; fields as they are called there."""

    name: str
    """Unique in the file."""
    tier: str
    """human, synthetic, neural or robot."""
    label: str
    """action: the robot's own; latent: by giza extract; inverse-dynamics: pseudo-actions of a model trained on the robot
    tier; none: alignment of the future only (FLARE)."""
    weight: float = 1.0
    """Share in the mixture, of any sum; 0 leaves the member out."""
    embodiment: str = ""
    """The policy's slot; default: latent for label latent, new_embodiment for the others."""
    licence: str = ""
    """Of the data."""
    dataset: str = ""
    """A LeRobot dataset, or an RLDS one (the folder of its features.json)."""
    corpus: str = ""
    """A folder of giza ingest."""
    latents: str = ""
    """A folder of giza extract, of that corpus."""
    pseudo_actions: str = ""
    """A folder of giza label, of that corpus (label inverse-dynamics)."""
    episodes: str = ""
    """Of a dataset: "0:20" or "0,3,5"; empty for all."""
    demos: int = 0
    """Of a dataset: the first N episodes of each instruction; 0 for all."""
    previous_action: bool = False
    """Of a dataset: the state also holds the last action; `relative` is then relative to it."""
    failures: bool = False
    """Of a dataset: also episodes that its column next.success calls failed; they are no demonstrations."""
    cameras: tuple[str, ...] = ()
    """Of a dataset; empty for all."""
    state: tuple[str, ...] = ()
    """Parts of a dataset's state, or dimensions ("7:14"); empty for all."""
    action: tuple[str, ...] = ()
    """Parts of a dataset's action, or dimensions; empty for all."""
    representation: str = "absolute"
    """Of actions: absolute, delta or relative."""
    normalisation: str = "q01_q99"
    """Of states and actions: min_max, mean_std or q01_q99."""
    linear_base: bool = False
    """Of a dataset with actions: the policy learns only what a ridge from the state leaves of them. Strong open loop; with
    previous_action it may copy itself in closed loop."""
    shuffle_latents_seed: int | None = None
    """The control: latents are permuted over clips."""
    hours: float = 0.0
    """Of a member that is only drawn."""
    source: str = ""
    """Where a member that is only drawn comes from."""

    @property
    def slot(self) -> str:
        return self.embodiment or ("latent" if self.label == "latent" else "new_embodiment")

    @property
    def selection(self) -> EpisodeSelection:
        """Of a dataset."""
        return EpisodeSelection(**{item.name: getattr(self, item.name) for item in fields(EpisodeSelection)})

    @property
    def planned(self) -> bool:
        """Only drawn: hours, no data."""
        return self.hours > 0 and not (self.dataset or self.corpus)


@dataclass(frozen=True)
class Pyramid:
    """A file that has been read and checked."""

    name: str
    members: tuple[PyramidMember, ...]
    folder: Path
    """What the paths are relative to."""

    def path(self, relative: str) -> Path:
        return self.folder / Path(relative).expanduser()

    def of_tier(self, tier: str) -> list[PyramidMember]:
        return [member for member in self.members if member.tier == tier]


def read_pyramid(path: str | Path, *, embodiments: tuple[str, ...] = ()) -> Pyramid:
    """The pyramid in a TOML file. Raises ValueError that names all faults together, one a line.

    `embodiments`: the slots that are known; empty: any.
    """
    values, folder = _parsed(path)
    return pyramid_of(values, folder, where=str(path), embodiments=embodiments)


def read_sound_members(path: str | Path, *, embodiments: tuple[str, ...] = ()) -> tuple[Pyramid, list[str]]:
    """As `read_pyramid`, for who looks for further faults: the pyramid of the members that are sound so far, and the
    faults of the others. Raises ValueError for a file that is no TOML or has no member."""
    values, folder = _parsed(path)
    return _sound_members(values, folder, str(path), embodiments)


def pyramid_of(
    values: dict[str, Any], folder: Path, *, where: str = "pyramid", embodiments: tuple[str, ...] = ()
) -> Pyramid:
    """As `read_pyramid`, of values that are parsed already."""
    pyramid, faults = _sound_members(values, folder, where, embodiments)
    raise_faults(where, faults)
    return pyramid


def raise_faults(where: str, faults: Sequence[str]) -> None:
    """Raises ValueError that names all of them, where there are any."""
    if faults:
        raise ValueError(f"{where}: {len(faults)} faults:\n  " + "\n  ".join(faults))


def _parsed(path: str | Path) -> tuple[dict[str, Any], Path]:
    path = Path(path).expanduser()
    try:
        return tomllib.loads(path.read_text("utf-8")), path.parent
    except OSError as error:
        raise ValueError(f"pyramid file '{path}': {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"pyramid file '{path}' is no TOML: {error}") from error


def _sound_members(
    values: dict[str, Any], folder: Path, where: str, embodiments: tuple[str, ...]
) -> tuple[Pyramid, list[str]]:
    faults = [f"unknown key '{key}'{_near(key, ('name', 'member'))}" for key in values if key not in {"name", "member"}]
    entries = values.get("member", [])
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{where}: no [[member]]; a pyramid has at least one")
    members: list[PyramidMember] = []
    sound: list[PyramidMember] = []
    for number, entry in enumerate(entries):
        member, wrong = _member(entry, number)
        if member is not None:
            members.append(member)
            wrong += _faults(member, folder, embodiments)
            if not wrong:
                sound.append(member)
        faults += wrong
    names = [member.name for member in members]
    faults += [f"member '{name}': the name is given twice" for name in sorted({n for n in names if names.count(n) > 1})]
    drawn = [member for member in members if member.planned]
    if members and not any(member.weight > 0 for member in members):
        faults.append("no member has a weight above 0")
    if drawn and len(drawn) != len(members):
        faults.append(
            f"member '{drawn[0].name}' has hours but no data, others have data: draw or train, not both in one file"
        )
    return Pyramid(str(values.get("name", "")), tuple(sound), folder), faults


def _member(entry: Any, number: int) -> tuple[PyramidMember | None, list[str]]:
    """The member and the faults of its form; None where it cannot be made."""
    if not isinstance(entry, dict):
        return None, [f"member {number}: must be a table"]
    title = f"member '{entry.get('name', number)}'"
    known = {item.name: item for item in fields(PyramidMember)}
    faults = [f"{title}: unknown key '{key}'{_near(key, tuple(known))}" for key in entry if key not in known]
    faults += [f"{title}: lacks '{key}'" for key in ("name", "tier", "label") if key not in entry]
    made: dict[str, Any] = {}
    for key, value in entry.items():
        if key not in known:
            continue
        wanted = _kind(known[key].type)
        if wanted is tuple:
            fits = isinstance(value, list) and all(isinstance(item, str) for item in value)
            made[key] = tuple(value) if fits else value
        elif wanted is bool:
            fits = isinstance(value, bool)
            made[key] = value
        elif wanted is float:
            fits = isinstance(value, (int, float)) and not isinstance(value, bool)
            made[key] = float(value) if fits else value
        else:
            fits = isinstance(value, wanted) and not isinstance(value, bool)
            made[key] = value
        if not fits:
            faults.append(f"{title}: {key} {value!r} must be {_SAID[wanted]}")
    return (None, faults) if faults else (PyramidMember(**made), [])


_SAID = {tuple: "a list of strings", bool: "true or false", float: "a number", int: "a whole number", str: "a string"}


def _kind(annotation: Any) -> type:
    text = str(annotation)
    if text.startswith("tuple"):
        return tuple
    return {"bool": bool, "float": float, "int": int, "int | None": int}.get(text, str)


def _faults(member: PyramidMember, folder: Path, embodiments: tuple[str, ...]) -> list[str]:
    """What is wrong with a member of good form."""
    title = f"member '{member.name}'"
    faults = []
    if member.tier not in TIERS:
        faults.append(f"{title}: tier '{member.tier}' is none of {', '.join(TIERS)}{_near(member.tier, TIERS)}")
    if member.label not in LABELS:
        faults.append(f"{title}: label '{member.label}' is none of {', '.join(LABELS)}{_near(member.label, LABELS)}")
    for key, known in (("representation", REPRESENTATIONS), ("normalisation", NORMALISATIONS)):
        value = getattr(member, key)
        if value not in known:
            faults.append(f"{title}: {key} '{value}' is none of {', '.join(known)}{_near(value, known)}")
    if member.linear_base and member.label != "action":
        faults.append(f"{title}: linear_base is for label 'action', not '{member.label}', which has no state")
    try:
        named_episodes(member.episodes)
    except ValueError as error:
        faults.append(f"{title}: {error}")
    if member.demos < 0:
        faults.append(f"{title}: demos {member.demos} must be 0 (all) or more")
    if not (math.isfinite(member.weight) and member.weight >= 0):
        faults.append(f"{title}: weight {member.weight} must be 0 or more")
    if embodiments and member.slot not in embodiments:
        faults.append(
            f"{title}: unknown embodiment '{member.slot}'{_near(member.slot, embodiments)}; known: {', '.join(embodiments)}"
        )
    if member.planned:
        return faults
    if bool(member.dataset) == bool(member.corpus):
        faults.append(
            f"{title}: give either a dataset (LeRobot, RLDS) or a corpus (giza ingest), or hours to have it drawn only"
        )
    needs = {"latent": ("corpus", "latents"), "inverse-dynamics": ("corpus", "pseudo_actions"), "action": ("dataset",)}
    for key in needs.get(member.label, ()):
        if not getattr(member, key):
            faults.append(f"{title}: label '{member.label}' needs '{key}'")
    markers = {
        "dataset": "meta/info.json",
        "corpus": "manifest.parquet",
        "latents": "extract.json",
        "pseudo_actions": "label.json",
    }
    for key, marker in markers.items():
        value = getattr(member, key)
        place = folder / Path(value).expanduser()
        if value and not place.exists():
            faults.append(f"{title}: {key} '{value}': no such folder ({place})")
        elif value and not (place / marker).exists() and not (key == "dataset" and is_rlds(place)):
            rlds = " (RLDS: features.json and dataset_info.json)" if key == "dataset" else ""
            faults.append(
                f"{title}: {key} '{value}' lacks {marker}{rlds}: it is not finished, or another kind of folder"
            )
    return faults


def _near(word: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""
