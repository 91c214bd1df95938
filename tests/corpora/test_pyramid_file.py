"""The pyramid file: all faults together, the nearest names, defaults, which episodes are chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from corpora.episodes.episode import EpisodeSelection
from corpora.mixture.spec import PyramidMember, pyramid_of, read_pyramid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset, a corpus and its latents, as far as the file looks at them."""
    for name, marker in (
        ("robot", "meta/info.json"),
        ("hands", "manifest.parquet"),
        ("latents", "extract.json"),
        ("labels", "label.json"),
    ):
        (tmp_path / name / marker).parent.mkdir(parents=True)
        (tmp_path / name / marker).write_text("{}")
    (tmp_path / "half").mkdir()
    return tmp_path


GOOD = """
name = "kitchen"
[[member]]
name = "hands"
tier = "human"
label = "latent"
corpus = "hands"
latents = "latents"
weight = 2
licence = "CC BY 4.0"
[[member]]
name = "demonstrations"
tier = "robot"
label = "action"
dataset = "robot"
demos = 3
cameras = ["head", "wrist"]
embodiment = "franka"
representation = "relative"
"""


def test_a_sound_file_is_read_with_its_defaults(folder: Path) -> None:
    (folder / "pyramid.toml").write_text(GOOD)
    pyramid = read_pyramid(folder / "pyramid.toml", embodiments=("latent", "franka"))
    assert pyramid.name == "kitchen" and [member.name for member in pyramid.members] == ["hands", "demonstrations"]
    hands, robot = pyramid.members
    assert (hands.slot, hands.weight, hands.normalisation) == ("latent", 2.0, "q01_q99")
    assert (robot.slot, robot.demos, robot.cameras, robot.weight) == ("franka", 3, ("head", "wrist"), 1.0)
    assert pyramid.path("robot") == folder / "robot"  # relative to the file, wherever it was read from
    assert pyramid.path("/elsewhere") == Path("/elsewhere")
    assert pyramid.of_tier("robot") == [robot]
    assert PyramidMember("a", "robot", "action").slot == "new_embodiment"


WRONG = """
nam = "kitchen"
[[member]]
name = "hands"
tier = "humn"
label = "latent"
corpus = "hands"
linear_base = true
[[member]]
name = "hands"
tier = "robot"
label = "action"
dataset = "nowhere"
embodiment = "frank"
weight = -1
representation = "relativ"
normalisation = "minmax"
episodes = "0-20"
demos = -1
[[member]]
name = "both"
tier = "robot"
label = "none"
dataset = "robot"
corpus = "half"
[[member]]
tier = "robot"
label = "acton"
dataset = "robot"
[[member]]
name = "typed"
tier = "robot"
label = "acton"
dataset = "robot"
demo = 3
cameras = "head"
weight = true
"""

FAULTS = [
    "unknown key 'nam' (did you mean 'name'?)",
    "member 'hands': tier 'humn' is none of human, synthetic, neural, robot (did you mean 'human'?)",
    "member 'hands': label 'latent' needs 'latents'",
    "member 'hands': linear_base is for label 'action', not 'latent', which has no state",
    "member 'hands': dataset 'nowhere': no such folder",
    "member 'hands': unknown embodiment 'frank' (did you mean 'franka'?); known: latent, franka",
    "member 'hands': weight -1.0 must be 0 or more",
    "member 'hands': representation 'relativ' is none of absolute, delta, relative (did you mean 'relative'?)",
    "member 'hands': normalisation 'minmax' is none of min_max, mean_std, q01_q99 (did you mean 'min_max'?)",
    "member 'hands': episodes '0-20': write 0:20 or 0,3,5",
    "member 'hands': demos -1 must be 0 (all) or more",
    "member 'both': unknown embodiment 'new_embodiment'",
    "member 'both': give either a dataset (LeRobot, RLDS) or a corpus (giza ingest)",
    "member 'both': corpus 'half' lacks manifest.parquet",
    "member '3': lacks 'name'",
    "member 'typed': unknown key 'demo' (did you mean 'demos'?)",
    "member 'typed': cameras 'head' must be a list of strings",
    "member 'typed': weight True must be a number",
    "member 'hands': the name is given twice",
]


def test_all_faults_are_named_together_one_a_line(folder: Path) -> None:
    (folder / "pyramid.toml").write_text(WRONG)
    with pytest.raises(ValueError) as caught:
        read_pyramid(folder / "pyramid.toml", embodiments=("latent", "franka"))
    first, *lines = str(caught.value).splitlines()
    for fault in FAULTS:
        assert sum(fault in line for line in lines) == 1, fault
    assert len(lines) == len(FAULTS)
    assert first == f"{folder / 'pyramid.toml'}: {len(FAULTS)} faults:"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[member]\nname = 1", "is no TOML"),
        ('name = "empty"', "no .*member.*at least one"),
        ("member = []", "at least one"),
        ('[[member]]\nname="a"\ntier="robot"\nlabel="action"\ndataset="robot"\nweight=0', "no member has a weight above 0"),
        ('[[member]]\nname="a"\ntier="robot"\nlabel="action"\ndataset="robot"\n'
         '[[member]]\nname="b"\ntier="neural"\nlabel="none"\nhours=9', "'b' has hours but no data.*draw or train"),
        ('[[member]]\nname="a"\ntier="human"\nlabel="inverse-dynamics"\ncorpus="hands"', "needs 'pseudo_actions'"),
        ('[[member]]\nname="a"\ntier="human"\nlabel="action"\ncorpus="hands"', "label 'action' needs 'dataset'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "pyramid.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_pyramid(folder / "pyramid.toml")


def test_a_file_that_is_not_there_and_a_pyramid_that_is_only_drawn(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pyramid file .*nothing.toml': No such file"):
        read_pyramid(folder / "nothing.toml")
    with pytest.raises(ValueError, match="Is a directory"):
        read_pyramid(folder)
    drawn = pyramid_of({"member": [{"name": "web", "tier": "human", "label": "none", "hours": 9}]}, folder)
    assert drawn.members[0].planned and drawn.members[0].hours == 9.0


INDICES = [0, 1, 2, 4, 5, 7]
TEXTS = ["open", "close", "open", "open", "close", "open"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, INDICES),
        ({"episodes": "0:4"}, [0, 1, 2]),
        ({"episodes": "7, 1,4"}, [1, 4, 7]),
        ({"episodes": "0:2,5:99"}, [0, 1, 5, 7]),
        ({"demos": 1}, [0, 1]),
        ({"demos": 2}, [0, 1, 2, 5]),
        ({"demos": 9}, INDICES),
        ({"episodes": "2:8", "demos": 1}, [2, 5]),  # the first of each instruction among those
    ],
)
def test_chosen_episodes(options: dict, expected: list[int]) -> None:
    assert EpisodeSelection(**options).choose(INDICES, TEXTS) == expected


@pytest.mark.parametrize("text", ["a", "1:", "0-4", "1,,2", "1:2:3"])
def test_a_text_that_names_no_episodes(text: str) -> None:
    with pytest.raises(ValueError, match=f"episodes '{text}': write 0:20 or 0,3,5"):
        EpisodeSelection(text).choose(INDICES, TEXTS)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(ValueError, match="episodes '8:20', demos 2: no episode is left of 6"):
        EpisodeSelection("8:20", demos=2).choose(INDICES, TEXTS)


def test_an_rlds_dataset_is_one_where_its_reader_says_so(folder: Path) -> None:
    rlds = folder / "rlds"
    rlds.mkdir()
    (rlds / "dataset_info.json").write_text("{}")
    text = GOOD.replace('dataset = "robot"', 'dataset = "rlds"')
    (folder / "pyramid.toml").write_text(text)
    with pytest.raises(
        ValueError, match=r"'rlds' lacks meta/info\.json \(RLDS: features\.json and dataset_info\.json\)"
    ):
        read_pyramid(folder / "pyramid.toml")
    (rlds / "features.json").write_text("{}")
    assert read_pyramid(folder / "pyramid.toml").members[1].dataset == "rlds"
