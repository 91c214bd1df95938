"""The report card: what was measured of a model and its latents, each figure beside its trivial baselines.

`lapa.reporting.measure` fills it in, `verdict.py` judges it, `page.html.j2` shows it; report.json is `Card.to_json`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cattrs
from cattrs.gen import make_dict_unstructure_fn, override

from corpora.store.files import plain, write_text
from lapa.codes import Codes, LatentHealth
from lapa.foreign.facts import ForeignFacts
from lapa.reporting.images import Images
from lapa.reporting.page import provenance_rows, render
from lapa.reporting.scores import BodyToBody, Difference, Interval, MeanScore, Readout, Score
from lapa.reporting.settings import ReportSettings
from lapa.reporting.weighed import WEIGHED

Level = Literal["trust", "trust with care", "do not trust", "cannot tell"]
HoldoutKind = Literal["held out of training", "named", "k-fold"]
"""Which episodes a probe is tested on."""
TITLES: dict[Level, str] = {
    "trust": "Trust",
    "trust with care": "Trust with care",
    "do not trust": "Do not trust",
    "cannot tell": "Cannot tell: no actions known",
}
PAGE_BYTES = 25 * 10**6
"""Of report.html at most; what would be more are videos that are left out."""
FEATURES = {
    "latent": "latent",
    "quantized": "its code",
    "first_frame": "first frame alone",
    "untrained": "untrained network",
    "pca": "PCA of the difference",
    "vision": "frozen vision model",
    "features": "frozen features, 512 numbers",
    "shuffled": "shuffled latents",
}
"""What a probe reads: the latent, and what it must beat."""


@dataclass(frozen=True)
class Decoded:
    """How well second frames are predicted. Decibels are None where no pixels are predicted.

    `explained`: share of the first frame's error that is taken away: 1 a perfect image, 0 no better than copying.
    """

    pairs: int
    psnr_db: float | None
    continuous_psnr_db: float | None
    copy_psnr_db: float | None
    plain_copy_psnr_db: float | None
    """Of the first frame without camera compensation."""
    random_code_psnr_db: float | None
    shuffled_code_psnr_db: float | None
    """From the code of another pair."""
    explained: float
    continuous_explained: float
    random_code_explained: float
    shuffled_code_explained: float
    pca_explained: float
    """What principal components of the difference, as many as the latent has dimensions, rebuild of it."""


@dataclass(frozen=True)
class Reconstruction(Decoded):
    """On pairs as they are."""

    groups: int
    on: str
    """Which videos these are of."""
    unit: str
    """"pixels", or the features that are predicted."""


@dataclass(frozen=True)
class Cuts(Decoded):
    """Across cuts, where no action leads from one frame to the other."""

    kind: str
    real_explained: float
    """`explained` of real pairs."""
    guess_explained: float
    """What the mean of the other second frames explains, which has not seen this one."""


@dataclass(frozen=True)
class Appearance:
    """How well the second frame's look is read from the latent alone, on other videos."""

    r2: float
    ci95: Interval
    first_r2: float
    """Of the first frame's look."""
    difference_r2: float
    """Of the second frame's look from PCA of the difference, which knows what changed and no more."""
    beyond_difference: float
    """Share of what PCA of the difference leaves open that the latent knows: 1 a picture of the second frame, 0 what an
    action tells."""
    beyond_ci95: Interval
    pairs: int
    groups: int


@dataclass(frozen=True)
class Probe:
    """How well one body's known motion is read from the latents."""

    target: str
    """What is read, in words."""
    feature: str
    embodiment: str
    gap_s: float
    dims: list[int]
    """Over which R2 is averaged."""
    spread: list[float]
    """Standard deviation of the motion in each of `dims`, in the feature's units."""
    other_dims: list[int]
    """That are not asked for: by default those that hardly move."""
    other_spread: list[float]
    dimension: int
    """Of the latent, and of each baseline."""
    pairs: int
    groups: int
    train_pairs: int
    holdout: HoldoutKind
    test_groups: list[str]
    notes: list[str]
    neighbour_agreement: float | None
    """1: the nearest latent of another video moves alike; 0: as a random one does."""
    readout: Readout
    """With all labels."""
    budgets: list[Readout]
    """With fewer."""
    skipped_budgets: list[int]
    """For want of labelled pairs."""
    warnings: list[str] = field(default_factory=list)
    pairs_hash: str = ""
    """Of the pairs themselves, and of the motion that is read: equal where two probes were asked the same."""

    @property
    def scores(self) -> dict[str, Score]:
        return self.readout.scores

    @property
    def difference(self) -> dict[str, Difference]:
        return self.readout.difference


@dataclass(frozen=True)
class CameraProbe:
    """How much of the camera's own motion is in the latent; low is good."""

    r2_mean: float | None
    """None where it was not measured, for `reason`."""
    ci95: Interval | None
    reason: str = ""
    r2: dict[str, float] = field(default_factory=dict)
    """Of each quantity."""
    pairs: int = 0
    groups: int = 0
    baselines: dict[str, MeanScore] = field(default_factory=dict)
    difference: dict[str, Difference] = field(default_factory=dict)
    source: str = ""
    truth: CameraProbe | None = None
    """The same where the camera's motion is known, not tracked."""


@dataclass(frozen=True)
class Agreement:
    """Cosine of the latent that is read off a prediction with the one that was put in, and with one that was not."""

    same_latent: float
    chance: float


@dataclass(frozen=True)
class Transfer(Agreement):
    """Latents decoded on another video's first frame."""

    across_embodiments: Agreement | None
    strips: int


@dataclass(frozen=True)
class AtlasSize:
    kind: str
    """What an entry is."""
    entries: int


@dataclass(frozen=True)
class Reason:
    """One sentence for or against."""

    kind: Literal["good", "concern", "bad"]
    text: str
    remedy: str = ""
    """What to do about it."""


@dataclass(frozen=True)
class Verdict:
    """May these latents be trusted, and why; the reasons are sorted, worst first."""

    level: Level
    reasons: tuple[Reason, ...]

    @property
    def title(self) -> str:
        return TITLES[self.level]

    @property
    def next_steps(self) -> tuple[str, ...]:
        """What to do now, the most pressing first."""
        use = "train on them: label = 'latent' in a pyramid file for giza pretrain"
        remedies = dict.fromkeys(reason.remedy for reason in self.reasons if reason.remedy)
        return (use, *remedies) if self.level == "trust" else tuple(remedies) or (f"{use}; mind the concerns",)

    @property
    def text(self) -> str:
        """Title and sentences in one line."""
        return " ".join([self.title + ".", *(reason.text for reason in self.reasons)])

    def __str__(self) -> str:
        marks = {"good": "+", "concern": "!", "bad": "x"}
        return "\n".join([self.title, *(f" {marks[reason.kind]} {reason.text}" for reason in self.reasons)])

    def to_json(self) -> dict[str, Any]:
        facts = {**dataclasses.asdict(self), "title": self.title, "next_steps": list(self.next_steps)}
        return facts | {"reasons": list(facts["reasons"])}


@dataclass(frozen=True)
class Card:
    """All of it."""

    settings: ReportSettings
    pairs: int
    """That the latents hold."""
    sampled_pairs: int
    """Of them, that were looked at."""
    clips: int
    groups: int
    embodiments: list[str]
    gap_s: float
    model_hash: str
    codes: Codes | None
    codes_reason: str
    """Why there are none; or what is not known of them."""
    latent: LatentHealth
    reconstruction: Reconstruction | None
    """None for `no_decoder`."""
    cuts: Cuts | None
    """None where no two clips differ enough to stand for a cut, and for `no_decoder`."""
    appearance: Appearance | None
    """None with too few pairs, or pairs of one video alone."""
    probes: dict[str, Probe]
    """By body, that with most known pairs first."""
    probe_reason: str
    """Why there are none."""
    probe_notes: list[str]
    """Why a body that has ground truth was not probed."""
    camera: CameraProbe
    transfer: Transfer | None
    transfer_reason: str
    """Why there is none."""
    atlas: AtlasSize
    seconds: dict[str, float]
    """By stage."""
    warnings: list[str]
    """Of all bodies; those of one are its probe's."""
    bodies: list[BodyToBody] = field(default_factory=list)
    """Every two bodies of which the same motion is known."""
    corpus_hash: str = ""
    """Identity of the corpus."""
    no_decoder: str = ""
    """Why what needs the model is left out; empty where it is not."""
    foreign: ForeignFacts | None = None
    """Of latents that another trainer wrote."""
    extracted: list[str] = field(default_factory=list)
    """Whose model made the latents and what it was shown, in words; empty where their extraction did not say."""
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """By body."""
    images: Images | None = field(default=None, repr=False, compare=False)
    """Not in report.json."""
    made: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)
    """Where and when it was measured (`corpora.store.provenance`), and the training's recipe and steps."""

    @property
    def probe(self) -> Probe | None:
        """Of the body with most known pairs."""
        return next(iter(self.probes.values()), None)

    @property
    def verdict(self) -> Verdict:
        """Of the body with most known pairs."""
        return self.verdicts[self.probe.embodiment if self.probe else self.embodiments[0]]

    def __str__(self) -> str:
        return "\n".join(f"{body}: {verdict}" for body, verdict in self.verdicts.items())

    def save_html(self, path: str | Path) -> None:
        """Writes the card as one self-contained page."""
        training = {"recipe": self.made.get("recipe"), "steps": self.made.get("steps"), "model": self.model_hash}
        made = provenance_rows(self.made, **training, seed=self.settings.seed)
        mb = PAGE_BYTES // 10**6
        context = {"card": self, "features": FEATURES, "weighed": WEIGHED, "made": made, "budget_mb": mb}
        page = render("page.html.j2", images=self.images, **context)
        if self.images is not None and (over := len(page.encode()) - PAGE_BYTES) > 0:
            page = render("page.html.j2", images=self.images.lighter(over), **context)
        write_text(Path(path), page)

    def to_json(self) -> dict[str, Any]:
        """As report.json has it; what is not finite becomes None."""
        record: dict[str, Any] = _CONVERTER.unstructure(dataclasses.replace(self, verdicts={}, images=None, made={}))
        for name in ("images", "made", "verdicts", "transfer_reason"):
            del record[name]
        for name in ("no_decoder", "foreign", "extracted"):  # only where there is something to say
            if not record[name]:
                del record[name]
        if self.transfer is None:
            record["transfer"] = {"reason": self.transfer_reason}
        probe = self.probe
        record["probe"] = None if probe is None else record["probes"][probe.embodiment]
        record["warnings"] = [*self.warnings, *(probe.warnings if probe else ())]
        record["verdict"], record["verdict_detail"] = self.verdict.text, self.verdict.to_json()
        record["verdicts"] = {body: verdict.to_json() for body, verdict in self.verdicts.items()}
        return dict(plain(record))

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Card:
        """From report.json. Raises ValueError that names what is lacking or wrong."""
        transfer = record.get("transfer") or {}
        lost = transfer.get("reason", "")
        parts = {**record, "transfer": None if lost else transfer, "transfer_reason": lost}
        if "verdicts" not in record:
            raise ValueError("this is no report card of today's format: it lacks verdicts; run giza report again")
        try:
            card = _CONVERTER.structure(parts, Card)
            own = card.probe.warnings if card.probe else []
            warnings = card.warnings[: len(card.warnings) - len(own)]
            return dataclasses.replace(card, warnings=warnings, made=record.get("provenance") or {})
        except Exception as error:
            why = "; ".join(cattrs.transform_error(error, path="report"))
            raise ValueError(f"this is no report card of today's format: {why}; run giza report again") from error


def _readout_json(readout: Readout) -> dict[str, Any]:
    return {name: _CONVERTER.unstructure(score) for name, score in readout.scores.items()} | {
        "difference": _CONVERTER.unstructure(readout.difference)
    }


def _readout(record: Mapping[str, Any], labels: int) -> Readout:
    scores = {name: _CONVERTER.structure(record[name], Score) for name in FEATURES if name in record}
    difference = _CONVERTER.structure(record["difference"], dict[str, Difference])
    return Readout(labels, scores, difference, int(record.get("draws", 1)))


def _probe_json(probe: Probe) -> dict[str, Any]:
    facts = {f.name: getattr(probe, f.name) for f in dataclasses.fields(probe) if f.name not in ("readout", "budgets")}
    budgets = {str(b.labels): {"labels": b.labels, "draws": b.draws, **_readout_json(b)} for b in probe.budgets}
    return {**facts, **_readout_json(probe.readout), "budgets": budgets}


def _probe(record: Mapping[str, Any], _: Any) -> Probe:
    readout = _readout(record, int(record["train_pairs"]))
    budgets = [_readout(budget, int(budget["labels"])) for budget in record["budgets"].values()]
    names = {f.name for f in dataclasses.fields(Probe)} - {"readout", "budgets"}
    facts = {name: value for name, value in record.items() if name in names}
    return Probe(**facts, readout=readout, budgets=budgets)


_CONVERTER = cattrs.Converter()
for _kind in (Score, CameraProbe):  # what is not known is not written
    _CONVERTER.register_unstructure_hook(
        _kind, make_dict_unstructure_fn(_kind, _CONVERTER, _cattrs_omit_if_default=True)
    )
_CONVERTER.register_unstructure_hook(
    ReportSettings,
    make_dict_unstructure_fn(ReportSettings, _CONVERTER, features=override(omit_if_default=True)),
)
_CONVERTER.register_unstructure_hook(Probe, _probe_json)
_CONVERTER.register_structure_hook(Probe, _probe)
_CONVERTER.register_structure_hook(float, lambda value, _: math.nan if value is None else float(value))
_CONVERTER.register_structure_hook(Images, lambda value, _: value)
