"""The probe against slow references: scikit-learn's ridge, known relations, and resampling that covers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from lapa.pairs.known_motion import relative_motion
from lapa.reporting.probes import probe
from lapa.reporting.probes.baselines import FeatureComponents, ImageComponents, change_images
from lapa.reporting.probes.motion import choose_dims, choose_feature
from lapa.reporting.probes.probe import (
    Split,
    TestGroups,
    held_out_split,
    k_fold_splits,
    labelled_pairs,
    resample_groups,
    run_probe,
)
from lapa.reporting.probes.ridge import ALPHAS, assign_folds, coordinates_of, fit_ridge, ridge_path
from lapa.reporting.settings import ReportSettings


def data(groups: int = 20, each: int = 30, dim: int = 12, out: int = 3, noise: float = 0.5, seed: int = 0):
    rng = np.random.default_rng(seed)
    names = np.repeat([f"episode_{number:02d}" for number in range(groups)], each)
    x = rng.normal(size=(groups * each, dim))
    y = x @ rng.normal(size=(dim, out)) + noise * rng.normal(size=(len(x), out))
    return x, y, names


@pytest.mark.parametrize(("rows", "dim"), [(50, 8), (12, 40)])
@pytest.mark.parametrize("alpha", [1e-3, 1.0, 300.0])
def test_ridge_is_that_of_scikit_learn(rows: int, dim: int, alpha: float) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(rows, dim)), rng.normal(size=(rows, 4))
    x, y = x - x.mean(0), y - y.mean(0)
    ours = ridge_path(x, y, np.array([alpha]))[0]
    theirs = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(x, y).coef_.T
    np.testing.assert_allclose(ours, theirs, atol=1e-8)


def test_a_fit_with_its_own_offset_predicts_as_scikit_learn() -> None:
    x, y, names = data()
    x, y = x * np.linspace(0.1, 9, 12) + 5, y + 7
    fit = fit_ridge(x, y, names)
    z = coordinates_of(x).apply(x, fit.scaling)
    theirs = Ridge(alpha=fit.alpha, solver="svd").fit(z, y)
    np.testing.assert_allclose(fit.predict(x), theirs.predict(z), atol=1e-8)


def test_penalty_is_the_best_of_a_slow_grouped_search() -> None:
    x, y, names = data(groups=6, each=5, dim=25, noise=3.0)
    fold_of = assign_folds(names, np.random.default_rng(0))
    z = (x - x.mean(0)) / np.sqrt((x.std(0) ** 2).mean())
    errors = []
    for alpha in ALPHAS:
        error = 0.0
        for fold in np.unique(fold_of):
            kept = fold_of != fold
            guess = Ridge(alpha=alpha, solver="svd").fit(z[kept], y[kept]).predict(z[~kept])
            error += float((((guess - y[~kept]) ** 2) / y.var(0)).sum())
        errors.append(error)
    fit = fit_ridge(x, y, names)
    if fit.scaling == "global":
        assert fit.alpha == ALPHAS[int(np.argmin(errors))]
    assert fit.alpha > ALPHAS[0]  # 30 pairs, 25 dimensions and much noise want a penalty


def test_coordinates_are_what_they_are_called() -> None:
    rng = np.random.default_rng(1)
    x = 3 + rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) * np.array([1, 5, 0.2, 1, 30, 1])
    ways = coordinates_of(x)
    original = np.cov(x.T, bias=True)
    cov = {name: np.cov(ways.apply(x, name).T, bias=True) for name in ways.maps}
    for name in ways.maps:
        assert np.trace(cov[name]) / 6 == pytest.approx(1)
    np.testing.assert_allclose(cov["global"] * np.trace(original) / 6, original)
    np.testing.assert_allclose(np.diag(cov["per_dimension"]), 1)
    half = np.sqrt(np.linalg.eigvalsh(original))
    np.testing.assert_allclose(np.linalg.eigvalsh(cov["half_whitened"]), half / half.mean(), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("deviation", "worth", "wanted"),
    [
        # what falls off steeply, and is worth more than its variance says, as the latents of a network are
        (np.geomspace(1, 1e-4, 60), np.geomspace(1, 1e-2, 60), "half_whitened"),
        # few directions that matter before a floor of others, as principal components of images are
        (np.r_[np.ones(3), np.full(57, 0.3)], np.r_[np.ones(3), np.zeros(57)], "global"),
    ],
)
def test_the_labelled_pairs_choose_the_coordinates(seed: int, deviation, worth, wanted: str) -> None:
    rng = np.random.default_rng(seed)
    names = np.repeat(np.arange(40), 20)
    factors = rng.normal(size=(800, 60))
    x, y = factors * deviation, factors * worth @ rng.normal(size=(60, 2))
    y += 0.3 * y.std(0) * rng.normal(size=y.shape)
    few, known = rng.choice(600, 64, replace=False), coordinates_of(x[:600])

    def test_r2(maps) -> float:
        fit = fit_ridge(x[few], y[few], names[few], coordinates=replace(known, maps=maps))
        return float(r2_score(y[600:], fit.predict(x[600:])))

    alone = {name: test_r2({name: by}) for name, by in known.maps.items()}
    assert fit_ridge(x[few], y[few], names[few], coordinates=known).scaling == wanted
    assert test_r2(known.maps) == alone[wanted] == max(alone.values())


def test_a_known_relation_is_found_and_a_shuffled_one_is_not() -> None:
    x, y, names = data(noise=0.0)
    rng = np.random.default_rng(5)
    mixed = x[rng.permutation(len(x))]
    splits = held_out_split(names, {"episode_00", "episode_07", "episode_13"})
    features = {"latent": lambda split: [x], "shuffled": lambda split: [mixed]}
    found = run_probe(features, y, names, splits, ReportSettings(budgets=(64,), draws=3, bootstrap=200))
    scores = found.all_labels.scores
    assert scores["latent"].r2_mean > 0.999
    assert abs(scores["shuffled"].r2_mean) < 0.1
    assert found.all_labels.difference["shuffled"].ci95[0] > 0.8
    assert found.budgets[0].scores["latent"].r2_mean > 0.99
    assert len(scores["latent"].r2) == 3


def test_r2_and_its_resamples_are_those_of_the_pairs_themselves() -> None:
    x, y, names = data(noise=2.0, groups=8)
    splits = held_out_split(names, {"episode_00", "episode_03", "episode_05"})
    split = splits[0]
    fit = fit_ridge(x[split.train], y[split.train], names[split.train])
    error = fit.predict(x) - y
    bank = TestGroups(y, names, splits)
    sums = bank.squared_error(np.where(split.test[:, None], error, 0), split.test)
    once = bank.r2(sums, np.ones((1, 3)))[0]
    want = r2_score(y[split.test], fit.predict(x[split.test]), multioutput="raw_values")
    np.testing.assert_allclose(once, want)
    weights = resample_groups(3, 5, np.random.default_rng(1))
    for drawn, ours in zip(weights, bank.r2(sums, weights), strict=True):
        rows = np.concatenate(
            [np.flatnonzero(names == n) for n, k in zip(bank.names, drawn, strict=True) for _ in range(int(k))]
        )
        np.testing.assert_allclose(ours, r2_score(y[rows], fit.predict(x[rows]), multioutput="raw_values"))


def test_no_group_is_on_both_sides_and_every_group_is_tested_once() -> None:
    _, _, names = data(groups=7, each=4)
    splits = k_fold_splits(names, seed=2)
    tested: list[str] = []
    for split in splits:
        assert not set(names[split.train]) & set(names[split.test])
        assert (split.train ^ split.test).all()
        tested += sorted(set(names[split.test]))
    assert sorted(tested) == sorted(set(names))
    with pytest.raises(ValueError, match="one group only"):
        k_fold_splits(np.array(["a", "a"]), seed=0)


def test_what_a_group_knows_by_heart_is_worth_nothing_on_another() -> None:
    """A latent that only names its episode explains motion within episodes it has seen, and none in those held out."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(20).astype(str), 20)
    x = np.eye(20)[names.astype(int)] + 0.01 * rng.normal(size=(400, 20))
    y = np.repeat(rng.normal(size=(20, 2)), 20, axis=0) + 0.1 * rng.normal(size=(400, 2))
    found = run_probe({"latent": lambda split: [x]}, y, names, k_fold_splits(names, 0), ReportSettings(budgets=()))
    assert found.all_labels.scores["latent"].r2_mean < 0.1
    leaky = Ridge(alpha=1e-3).fit(x[::2], y[::2]).score(x[1::2], y[1::2])
    assert leaky > 0.8


def test_budgets_take_that_many_labels() -> None:
    x, y, names = data()
    settings = ReportSettings(budgets=(16, 64, 100000), draws=4, bootstrap=50)
    splits = held_out_split(names, {"episode_00", "episode_01"})
    found = run_probe({"latent": lambda split: [x]}, y, names, splits, settings)
    assert [fewer.labels for fewer in found.budgets] == [16, 64]
    assert found.skipped_budgets == [100000]
    assert found.budgets[0].scores["latent"].r2_mean < found.budgets[1].scores["latent"].r2_mean
    with pytest.raises(ValueError, match="at least 4"):
        ReportSettings(budgets=(2,))


def test_few_labels_are_those_of_whole_episodes() -> None:
    """L12: what is learned is y of each episode by heart; with 64 labels of as many episodes that reads all others, with
    those of the two or three episodes that 64 labels are, it reads nothing."""
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(200).astype(str), 30)
    place = np.repeat(rng.normal(size=(200, 4)), 30, axis=0)
    x = place + 0.01 * rng.normal(size=place.shape)
    y = place @ rng.normal(size=(4, 1)) + 0.01 * rng.normal(size=(len(x), 1))
    settings = ReportSettings(budgets=(64, 3000), draws=4, bootstrap=5)
    found = run_probe({"latent": lambda split: [x]}, y, names, held_out_split(names, set(names[-1500:])), settings)
    few, many = (budget.scores["latent"].r2_mean for budget in found.budgets)
    assert few < 0.9 < many
    split = held_out_split(names, set(names[-1500:]))[0]
    for seed in range(5):
        drawn = labelled_pairs(split, names, 64, np.random.default_rng(seed))
        own, counts = np.unique(names[drawn], return_counts=True)
        assert len(drawn) == len(set(drawn.tolist())) == 64 and split.train[drawn].all()
        assert sorted(counts.tolist()) == [4, 30, 30]
        assert (np.diff(drawn[names[drawn] == own[counts.argmin()]]) == 1).all()  # the beginning of the last one


def test_no_label_of_a_tested_episode_is_fitted_on() -> None:
    """Labels of tested episodes are poisoned by a shift d and by -d. What is predicted must not follow, so that the sum
    of (e - d)^2 + (e + d)^2 over the tested pairs is that of 2 e^2 + 2 d^2, whatever the errors e are."""
    x, y, names = data()
    held_out, shift = np.isin(names, ["episode_00", "episode_01"]), 10.0
    settings = ReportSettings(budgets=(16, 64), draws=3, bootstrap=5)

    def r2(d: float) -> np.ndarray:
        y_poisoned = y + d * held_out[:, None]
        found = run_probe({"latent": lambda split: [x]}, y_poisoned, names, [Split(~held_out, held_out)], settings)
        return np.array([readout.scores["latent"].r2 for readout in (found.all_labels, *found.budgets)])

    np.testing.assert_allclose(r2(shift) + r2(-shift), 2 * r2(0.0) - 2 * shift**2 / y[held_out].var(0), rtol=1e-9)


def test_coordinates_are_those_of_the_training_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, names = data()
    splits, seen = k_fold_splits(names, 0), []
    monkeypatch.setattr(probe, "coordinates_of", lambda values: seen.append(values) or coordinates_of(values))
    run_probe({"latent": lambda split: [x]}, y, names, splits, ReportSettings(budgets=(), bootstrap=5))
    for values, split in zip(seen, splits, strict=True):
        np.testing.assert_array_equal(values, x[split.train])


@pytest.mark.parametrize("kind", ["first", "change", "vision"])
def test_principal_components_are_of_the_training_pairs(kind: str) -> None:
    rng = np.random.default_rng(0)
    thumbs = rng.integers(100, 140, (60, 2, 4, 4, 3)).astype(np.uint8)
    poisoned, train = thumbs.copy(), np.arange(60) < 40
    poisoned[~train] = rng.integers(0, 256, (20, 2, 4, 4, 3))
    features = [
        FeatureComponents(change_images(t).astype(np.float16), 5, 0)
        if kind == "vision"
        else ImageComponents(t, kind, 5, 0)
        for t in (thumbs, poisoned)
    ]
    plain, other = (feature(Split(train, ~train))[0] for feature in features)
    np.testing.assert_array_equal(plain[train], other[train])
    assert not np.allclose(plain[~train], other[~train])


def test_the_same_seed_gives_the_same_numbers() -> None:
    x, y, names = data(noise=2.0)
    one, two, other = (
        run_probe(
            {"latent": lambda split: [x]},
            y,
            names,
            k_fold_splits(names, 0),
            ReportSettings(budgets=(32,), draws=3, bootstrap=100, seed=seed),
        )
        for seed in (1, 1, 2)
    )
    assert one == two
    assert one.budgets[0].scores["latent"] != other.budgets[0].scores["latent"]


def test_intervals_cover_the_true_r2() -> None:
    """Over many fresh data sets the interval contains the R2 of endless test data about as often as it says."""
    covered = 0
    trials = 40
    rng = np.random.default_rng(11)
    w = rng.normal(size=(6, 1))
    true_r2 = float((w**2).sum() / ((w**2).sum() + 4.0))
    for trial in range(trials):
        own = np.random.default_rng([12, trial])
        names = np.repeat(np.arange(40).astype(str), 25)
        x = own.normal(size=(1000, 6))
        y = x @ w + 2.0 * own.normal(size=(1000, 1))
        settings = ReportSettings(budgets=(), bootstrap=200, seed=trial)
        held_out = set(np.arange(20).astype(str))
        found = run_probe({"latent": lambda split, x=x: [x]}, y, names, held_out_split(names, held_out), settings)
        low, high = found.all_labels.scores["latent"].ci95
        covered += low <= true_r2 <= high
    assert covered >= 0.82 * trials


def test_the_interval_of_a_difference_is_paired() -> None:
    """Two features that err together differ by little, whatever the episodes drawn."""
    x, y, names = data(noise=4.0)
    worse = x + 0.05 * np.random.default_rng(1).normal(size=x.shape)
    features = {"latent": lambda split: [x], "pca": lambda split: [worse]}
    found = run_probe(features, y, names, k_fold_splits(names, 0), ReportSettings(budgets=(), bootstrap=300))
    low, high = found.all_labels.difference["pca"].ci95
    wide_low, wide_high = found.all_labels.scores["latent"].ci95
    assert high - low < 0.3 * (wide_high - wide_low)


def test_a_state_changes_and_actions_add_up() -> None:
    t = np.arange(0, 3, 0.1) + 5.0
    truth = {"t_s": t, "observation.state": np.stack([2 * t, t**2], 1), "action": np.ones((len(t), 1))}
    begin, gap = np.array([5.0, 6.05, 7.5]), np.array([0.5, 0.5, 2.0])
    moved = relative_motion(truth, "observation.state", begin, gap)
    np.testing.assert_allclose(moved[:2, 0], 1.0)
    np.testing.assert_allclose(moved[0, 1], 5.5**2 - 5.0**2)
    assert np.isnan(moved[2]).all()
    for name in ("action", "action.expert", "actions"):
        summed = relative_motion({"t_s": t, name: truth["action"]}, name, begin, gap)
        np.testing.assert_allclose(summed[:2, 0], 5.0)


def test_a_row_that_holds_nothing_hides_the_motions_over_it_alone() -> None:
    t = np.arange(0, 3, 0.1)
    values = np.stack([t, t], 1)
    values[10] = np.nan
    begin = np.array([0.2, 0.85, 1.15])
    for name in ("observation.state", "action"):
        moved = relative_motion({"t_s": t, name: values}, name, begin, np.full(3, 0.2))
        assert np.isfinite(moved).all(1).tolist() == [True, False, True]


def test_the_dimensions_that_move_are_asked_for() -> None:
    rng = np.random.default_rng(0)
    motion = rng.normal(size=(100, 5)) * np.array([1.0, 0.001, 0.4, 0.0, 0.2])
    assert choose_dims(motion, "Unitree_G1", "observation.state", ()) == [0, 2, 4]
    assert choose_dims(motion, "metaworld_sawyer", "observation.state", ()) == [0, 1, 2]
    assert choose_dims(motion, "Unitree_G1", "observation.state", (3, 1)) == [3, 1]
    assert choose_dims(motion * [1, 1, 1, 1, 0.3], "Unitree_G1", "observation.state", ()) == [
        0,
        2,
    ]  # R8: an arm at rest
    with pytest.raises(ValueError, match="dimensions 0 to 4"):
        choose_dims(motion, "Unitree_G1", "observation.state", (5,))
    assert choose_feature(["action", "observation.state"], None) == "observation.state"
    assert choose_feature(["action", "camera.motion"], None) == "action"
    with pytest.raises(ValueError, match="the corpus knows action"):
        choose_feature(["action"], "hand")
