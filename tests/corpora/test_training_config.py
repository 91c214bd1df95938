"""What the configurations of all trainings refuse, and in which words."""

from __future__ import annotations

import pytest

from corpora.training_config import Training
from jobs.labelling.inverse_dynamics import InverseDynamicsTraining
from jobs.training.budget import with_budget
from lapa.training_config import TrainingConfig
from vla.training_config import PolicyTrainingConfig

KINDS = (Training, TrainingConfig, PolicyTrainingConfig, InverseDynamicsTraining)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 0}, "no budget: steps 0; give --steps"),
        ({"minutes": -1.0}, "minutes -1.0: at least 0"),
        ({"accumulate": 0}, "accumulate 0: at least 1"),
        ({"precision": "16"}, "precision '16': .*32-true"),
    ],
)
def test_each_says_what_is_wrong(kind: type[Training], change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind(**{"steps": 5, **change})


@pytest.mark.parametrize(("kind", "field"), [(TrainingConfig, "val_pairs"), (PolicyTrainingConfig, "val_samples")])
def test_counts_of_ones_own_are_checked_too(kind: type[Training], field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} 0: at least 1"):
        kind(steps=5, **{field: 0})


def test_only_policies_may_be_halved() -> None:
    assert PolicyTrainingConfig(steps=1, precision="bf16-true").precision == "bf16-true"
    with pytest.raises(ValueError, match="precision 'bf16-true': bf16-mixed, 32-true or auto"):
        TrainingConfig(steps=1, precision="bf16-true")


def test_a_budget_goes_over_any_of_them() -> None:
    for kind in KINDS:
        changed = with_budget(kind(steps=5), 7, None)
        assert type(changed) is kind
        assert (changed.steps, changed.minutes) == (7, 0.0)
