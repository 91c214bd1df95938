"""The pyramid file: all faults together, the nearest names, defaults, which episodes are chosen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corpora.episodes.parts import ActionPart
from corpora.episodes.selection import EpisodeSelection
from corpora.mixture.clip_samples import ClipsAt
from corpora.mixture.episode_samples import EpisodesAt
from corpora.mixture.label_kinds import Latents, PseudoActions, Unlabelled
from corpora.mixture.label_type import Actions
from corpora.mixture.mixture import MixtureSpec, read_mixture
from corpora.mixture.spec import DatasetSpec, Planned


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dataset, a corpus and its latents, as far as the file looks at them."""
    for name, marker in (
        ("robot", "meta/info.json"),
        ("hands", "manifest.parquet"),
        ("latents", "_extract.json"),
        ("labels", "_label.json"),
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
    mixture = read_mixture(folder / "pyramid.toml", embodiments=("latent", "franka"))
    assert mixture.name == "kitchen"
    hands, robot = mixture.datasets
    assert hands == DatasetSpec(
        "hands", "human", ClipsAt(folder / "hands"), Latents(folder / "latents"), 2.0, 1.0, "latent", "CC BY 4.0"
    )  # paths are relative to the file, wherever it was read from
    assert robot.data == EpisodesAt(folder / "robot", EpisodeSelection(demos=3, cameras=("head", "wrist")))
    assert robot.label == Actions("relative") and (robot.embodiment, robot.weight) == ("franka", 1.0)
    assert robot.label.normalisation == "" and hands.label.fitted_as.normalisation == "mean_std"
    assert mixture.of_tier("robot").datasets == (robot,)
    assert DatasetSpec("a", "robot", EpisodesAt(folder)).embodiment == "new_embodiment"
    (folder / "pyramid.toml").write_text(GOOD.replace('corpus = "hands"', f'corpus = "{folder}/hands"'))
    assert read_mixture(folder / "pyramid.toml") == mixture


def test_the_clearer_words_read_the_same(folder: Path) -> None:
    (folder / "old.toml").write_text(GOOD)
    new = GOOD.replace("[[member]]", "[[dataset]]").replace('dataset = "robot"', 'folder = "robot"')
    new = new.replace('"latent"', '"latents"').replace('"action"', '"actions"')
    (folder / "new.toml").write_text(new)
    assert read_mixture(folder / "new.toml") == read_mixture(folder / "old.toml")
    text = '[[dataset]]\nname = "a"\ntier = "human"\ncorpus = "hands"\nlabel = "{}"\n{}'
    for words, keys, label in (
        (("none", "unlabelled"), "", Unlabelled()),
        (("inverse-dynamics", "pseudo-actions"), 'pseudo_actions = "labels"', PseudoActions(folder / "labels")),
        (("latent", "latents"), 'latents = "latents"\nshuffle_seed = 3', Latents(folder / "latents", 3)),
    ):
        for word in words:
            (folder / "one.toml").write_text(text.format(word, keys))
            assert read_mixture(folder / "one.toml").datasets[0].label == label


PARTS = """
[[dataset]]
name = "demos"
tier = "robot"
label = "actions"
folder = "robot"
align = 0.5
[[dataset.action_parts]]
name = "arm"
dims = "0:6"
state_dims = "0:6"
representation = "relative"
per_step = true
[[dataset.action_parts]]
name = "gripper"
dims = [6]
clip = 1.5
"""


def test_parts_of_an_action_and_the_weight_of_alignment_are_written_in_the_file(folder: Path) -> None:
    (folder / "pyramid.toml").write_text(PARTS)
    (spec,) = read_mixture(folder / "pyramid.toml").datasets
    assert spec.align == 0.5
    assert spec.label == Actions(
        parts=(
            ActionPart("arm", range(6), range(6), "relative", per_step=True),
            ActionPart("gripper", (6,), clip=1.5),
        )
    )
    (folder / "pyramid.toml").write_text(PARTS.replace('dims = "0:6"', 'dims = "0-6"', 1) + "[[dataset]]\nname = 3\n")
    with pytest.raises(
        ValueError, match="(?s)4 faults.*'demos': dims = '0-6': numbers of dimensions.*'3': name 3 must be a string"
    ):
        read_mixture(folder / "pyramid.toml")


def test_a_file_says_over_which_clips_labels_are_shuffled(folder: Path) -> None:
    text = '[[dataset]]\nname = "a"\ntier = "human"\ncorpus = "hands"\nlabel = "latents"\nlatents = "latents"\n'
    for keys, label in (
        ('shuffled = "within_text"', Latents(folder / "latents", 0, "within_text")),
        ('shuffled = "within_text"\nshuffle_seed = 3', Latents(folder / "latents", 3, "within_text")),
        ('shuffled = "over_clips"', Latents(folder / "latents", 0)),
    ):
        (folder / "one.toml").write_text(text + keys)
        (spec,) = read_mixture(folder / "one.toml").datasets
        assert spec.label == label
    (folder / "one.toml").write_text(text)
    within = read_mixture(folder / "one.toml").shuffled(2, within_text=True).datasets[0].label
    assert within == Latents(folder / "latents", 2, "within_text")
    assert Latents(folder, 3, "over_clips") == Latents(folder, 3) == Latents(folder).shuffled(3)
    assert within.description == "latents shuffled within each text"
    (folder / "one.toml").write_text(text + 'shuffled = "within_task"')
    with pytest.raises(ValueError, match="shuffled 'within_task' is none of over_clips, within_text"):
        read_mixture(folder / "one.toml")
    (folder / "one.toml").write_text(text.replace('label = "latents"\nlatents = "latents"', 'label = "none"') + keys)
    assert read_mixture(folder / "one.toml").datasets[0].label == Unlabelled(0)


def test_mixtures_are_joined_relabelled_shuffled_and_weighed(folder: Path) -> None:
    (folder / "labels" / "_label.json").write_text(
        json.dumps(
            {"embodiment": "franka", "horizon": 4, "step_s": 0.1, "action_names": ["x"], "cameras": ["top"]}
            | {"codec": {}, "corpus_identity": "made"}
        )
    )
    clips = MixtureSpec((DatasetSpec("hands", "human", ClipsAt(folder / "hands"), Unlabelled()),), "kitchen")
    robot = MixtureSpec((DatasetSpec("demos", "robot", EpisodesAt(folder / "robot"), weight=3.0),))
    both = robot + clips.labelled(folder / "labels")
    assert both.name == "kitchen" and [spec.name for spec in both.datasets] == ["demos", "hands"]
    assert both.datasets[1].label == PseudoActions(folder / "labels") and both.datasets[1].embodiment == "franka"
    latents = clips.labelled(Latents(folder / "latents"))
    assert latents.datasets[0].embodiment == "latent" and latents.labelled(Unlabelled()) == clips
    assert latents.shuffled(4).datasets[0].label == Latents(folder / "latents", 4)
    assert [spec.weight for spec in both.weighing(8.0).datasets] == [6.0, 2.0]
    with pytest.raises(ValueError, match="label 'action' is none of clips"):
        robot.shuffled()
    with pytest.raises(ValueError, match="'demos': the name is given twice"):
        robot + robot
    with pytest.raises(ValueError, match="holds no finished labels"):
        clips.labelled(folder / "half")


WRONG = """
nam = "kitchen"
[[member]]
name = "hands"
tier = "humn"
label = "latent"
corpus = "hands"
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
    "dataset 'hands': tier 'humn' is none of human, synthetic, neural, robot (did you mean 'human'?)",
    "dataset 'hands': label 'latent' needs 'latents'",
    "dataset 'hands': dataset '{folder}/nowhere': no such folder",
    "dataset 'hands': unknown embodiment 'frank' (did you mean 'franka'?) Otherwise give --any-embodiment",
    "dataset 'hands': weight -1.0 must be 0 or more",
    "dataset 'hands': representation 'relativ' is none of absolute, delta, relative (did you mean 'relative'?)",
    "dataset 'hands': normalisation 'minmax' is none of min_max, mean_std, q01_q99 (did you mean 'min_max'?)",
    "dataset 'hands': episodes '0-20': write 0:20 or 0,3,5",
    "dataset 'hands': demos -1: must be 0 (all) or more",
    "dataset 'both': give either a dataset (LeRobot, RLDS) or a corpus (giza ingest)",
    "dataset 'both': corpus '{folder}/half' lacks manifest.parquet",
    "dataset '3': lacks 'name'",
    "dataset 'typed': unknown key 'demo' (did you mean 'demos'?)",
    "dataset 'typed': cameras 'head' must be a list of strings",
    "dataset 'typed': weight True must be a number",
    "dataset 'hands': the name is given twice",
]


def test_all_faults_are_named_together_one_a_line(folder: Path) -> None:
    (folder / "pyramid.toml").write_text(WRONG)
    with pytest.raises(ValueError) as caught:
        read_mixture(folder / "pyramid.toml", embodiments=("latent", "franka"))
    first, *lines = str(caught.value).splitlines()
    for fault in (text.replace("{folder}", str(folder)) for text in FAULTS):
        assert sum(fault in line for line in lines) == 1, fault
    assert len(lines) == len(FAULTS)
    assert first == f"{folder / 'pyramid.toml'}: {len(FAULTS)} faults:"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[member]\nname = 1", "is no TOML"),
        ('name = "empty"', "no .*dataset.*at least one"),
        ("member = []", "at least one"),
        ('[[member]]\nname="a"\ntier="robot"\nlabel="action"\ndataset="robot"\nweight=0', "no dataset has a weight above 0"),
        ('[[member]]\nname="a"\ntier="robot"\nlabel="action"\ndataset="robot"\n'
         '[[member]]\nname="b"\ntier="neural"\nlabel="none"\nhours=9', "'b' has hours but no data.*draw or train"),
        ('[[member]]\nname="a"\ntier="human"\nlabel="inverse-dynamics"\ncorpus="hands"', "needs 'pseudo_actions'"),
        ('[[member]]\nname="a"\ntier="human"\nlabel="action"\ncorpus="hands"', "label 'action' needs 'dataset'"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_on_is_refused(folder: Path, text: str, said: str) -> None:
    (folder / "pyramid.toml").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_mixture(folder / "pyramid.toml")


def test_a_file_that_is_not_there_and_a_pyramid_that_is_only_drawn(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"pyramid file .*nothing.toml': No such file"):
        read_mixture(folder / "nothing.toml")
    with pytest.raises(ValueError, match="Is a directory"):
        read_mixture(folder)
    (folder / "drawn.toml").write_text('[[dataset]]\nname = "web"\ntier = "human"\nlabel = "none"\nhours = 9\n')
    (drawn,) = read_mixture(folder / "drawn.toml").datasets
    assert drawn.planned and drawn.data == Planned(9.0)


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
        ValueError, match=r"rlds' lacks meta/info\.json \(RLDS: features\.json and dataset_info\.json\)"
    ):
        read_mixture(folder / "pyramid.toml")
    (rlds / "features.json").write_text("{}")
    assert read_mixture(folder / "pyramid.toml").datasets[1].data.folder == rlds
