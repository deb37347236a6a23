"""Fusion against brute force, closed forms and scikit-learn."""

import itertools
import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from scipy.optimize import linprog, minimize
from scipy.special import softmax
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from models.fusion import (
    C_GRID,
    CONSTRAINTS,
    FLOOR,
    FUSIONS,
    LAMBDAS,
    TEMPERATURE,
    AdaptiveFusion,
    EarlyFusion,
    LinearClassifier,
    WeightedSum,
    choose_lambda,
    chosen_without,
    cross_fit,
    late_fusion,
)

VIDEOS, CLASSES = 90, 5


def random_scores(seed=0, streams=("spatial", "temporal"), videos=VIDEOS, classes=CLASSES):
    """Softmax scores in which each stream knows some classes better than the other does."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(videos) % classes)
    scores = {}
    for stream in streams:
        logits = rng.normal(size=(videos, classes))
        logits[np.arange(videos), labels] += rng.uniform(0, 3, classes)[labels]
        scores[stream] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return scores, labels


def objective(weights, scores, labels, label, fusion_lambda):
    """Equations 5 to 7 for one class, with means for the printed sums, one video at a time."""
    positive, negative = rows_of_eqs_6_and_7(weights, scores, labels, label)
    return sum(positive) / len(positive) - fusion_lambda * sum(negative) / len(negative)


def rows_of_eqs_6_and_7(weights, scores, labels, label):
    positive: list[float] = []
    negative: list[float] = []
    for x, of in enumerate(labels):
        row = sum(w * scores[stream][x, label] for w, stream in zip(weights, scores, strict=True))
        (positive if of == label else negative).append(row)
    return positive, negative


def fit(scores, labels, constraint="simplex", fusion_lambda=1.0):
    return AdaptiveFusion.fit(scores, labels, constraint=constraint, fusion_lambda=fusion_lambda)


def fit_on(scores, labels, groups):
    return fit(scores, labels)


def simplex_grid(streams, steps):
    for counts in itertools.product(range(steps + 1), repeat=streams):
        if sum(counts) == steps:
            yield np.array(counts) / steps


def top1(scores, labels):
    return (scores.argmax(axis=1) == labels).mean()


# The table


@dataclass(frozen=True)
class SomePart:
    labels: np.ndarray
    scores: dict[str, np.ndarray]
    features: dict[str, np.ndarray]


def random_part(seed, videos=VIDEOS):
    scores, labels = random_scores(seed, videos=videos)
    return SomePart(labels, scores, {stream: np.log(array) for stream, array in scores.items()})


PARTS = {"train": random_part(50), "validation": random_part(51), "test": random_part(52)}
GROUPS = [i // 5 for i in range(VIDEOS)]


def fused_test_part(name, parts=PARTS, fusion_lambda=0.3):
    return FUSIONS[name].fuse(parts, groups=GROUPS, fusion_lambda=fusion_lambda).parts["test"]


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_gives_a_score_for_every_video_and_class_of_all_parts_but_train(name):
    fused = FUSIONS[name].fuse(PARTS, groups=GROUPS)
    assert {part: matrix.shape for part, matrix in fused.parts.items()} == {
        "validation": (VIDEOS, CLASSES),
        "test": (VIDEOS, CLASSES),
    }
    assert top1(fused.parts["test"], PARTS["test"].labels) > 1.5 / CLASSES
    json.dumps(dict(fused.details))


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_depends_on_what_its_entry_says_and_on_nothing_else(name):
    fusion, plain = FUSIONS[name], fused_test_part(name)

    def makes_a_difference(**changes):
        return not np.array_equal(plain, fused_test_part(name, {**PARTS, **changes}))

    test = PARTS["test"]
    turned = {stream: array[:, ::-1] for stream, array in test.features.items()}
    assert makes_a_difference(test=replace(test, features=turned)) == (name == "early")
    trained = [makes_a_difference(train=random_part(seed)) for seed in range(53, 58)]
    assert any(trained) == fusion.reads_train
    free = fused_test_part(name, fusion_lambda=None)
    others = [
        not np.array_equal(
            free, fused_test_part(name, {**PARTS, "validation": random_part(seed)}, None)
        )
        for seed in range(61, 66)
    ]
    assert any(others) == fusion.fits_on_validation  # one alone may lead to the same choice
    at_other = fused_test_part(name, fusion_lambda=8.0)
    assert np.array_equal(plain, at_other) != fusion.takes_lambda
    for stream in test.scores:
        changed = {
            kind: {**getattr(test, kind), stream: getattr(random_part(62), kind)[stream]}
            for kind in ("scores", "features")
        }
        reads = fusion.stream in (None, stream)
        assert makes_a_difference(test=replace(test, **changed)) == reads


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fitted_fusions_rule_gives_its_scores(name):
    fitted = FUSIONS[name].fit(PARTS, GROUPS, 0.3)
    test, rule = PARTS["test"], fitted.rule
    if rule is None:
        pytest.skip("this fusion is neither a weighted sum nor a linear classifier")
    if isinstance(rule, WeightedSum):
        by_rule = sum(rule.weights[stream] * test.scores[stream] for stream in rule.weights)
    else:
        assert isinstance(rule, LinearClassifier)
        joined = np.hstack([test.features[stream] for stream in rule.streams])
        values = (joined - rule.mean) @ rule.weight.T + rule.bias
        by_rule = np.repeat(values.min(axis=1, keepdims=True) - 1, rule.num_classes, axis=1)
        by_rule[:, rule.classes] = values
    np.testing.assert_allclose(by_rule, fitted.fuse(test), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("labels", [[0] * 6, [0, 2, 0, 2, 0, 2], [0, 1, 2, 0, 1, 2]])
def test_the_rule_of_early_fusion_knows_classes_without_a_video(labels):
    features = {"spatial": np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)}
    (fusion,) = EarlyFusion.fit_each(features, np.array(labels), num_classes=4, grid=(1.0,))
    rule = fusion.rule()
    values = (features["spatial"] - rule.mean) @ rule.weight.T + rule.bias
    by_rule = np.repeat(values.min(axis=1, keepdims=True) - 1, 4, axis=1)
    by_rule[:, rule.classes] = values
    np.testing.assert_allclose(by_rule, fusion.decide(features), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in FUSIONS if FUSIONS[name].takes_lambda])
def test_a_fusion_that_takes_lambda_says_which_one_it_used(name):
    assert FUSIONS[name].fuse(PARTS, groups=GROUPS, fusion_lambda=0.7).fusion_lambda == 0.7
    assert FUSIONS[name].fuse(PARTS, groups=GROUPS).fusion_lambda in LAMBDAS


def test_parts_and_streams_that_a_fusion_needs_are_named():
    unvalidated = {"train": PARTS["train"], "test": PARTS["test"]}
    for name, fusion in FUSIONS.items():
        if fusion.fits_on_validation:
            with pytest.raises(ValueError, match="validation part, but there are only"):
                fused_test_part(name, unvalidated)
    flow = replace(PARTS["test"], scores={"temporal": PARTS["test"].scores["temporal"]})
    with pytest.raises(ValueError, match="reads stream 'spatial', but the network has temporal"):
        fused_test_part("spatial", {"test": flow})


# Late fusion


def test_late_average_is_the_mean_of_the_streams():
    scores, _ = random_scores()
    np.testing.assert_allclose(late_fusion(scores), np.mean(list(scores.values()), axis=0))


def test_late_weights_count_relative_to_each_other():
    scores, _ = random_scores()
    expected = 0.4 * scores["spatial"] + 0.6 * scores["temporal"]
    for factor in (1, 7):
        weights = {"temporal": 1.5 * factor, "spatial": 1.0 * factor}
        np.testing.assert_allclose(late_fusion(scores, weights), expected)


def test_late_fusion_keeps_rows_that_sum_to_one():
    scores, _ = random_scores(streams=("a", "b", "c"))
    fused = late_fusion(scores, {"a": 1, "b": 0, "c": 2})
    np.testing.assert_allclose(fused.sum(axis=1), 1)


def test_named_late_fusions_are_their_closed_forms():
    spatial, temporal = PARTS["test"].scores.values()
    np.testing.assert_array_equal(fused_test_part("spatial"), spatial)
    np.testing.assert_array_equal(fused_test_part("temporal"), temporal)
    np.testing.assert_allclose(fused_test_part("average"), (spatial + temporal) / 2)
    np.testing.assert_allclose(fused_test_part("weighted"), (spatial + 1.5 * temporal) / 2.5)


# Adaptively weighted fusion: each constraint against the objective as printed


@pytest.mark.parametrize("fusion_lambda", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("streams", [("spatial", "temporal"), ("a", "b", "c")])
def test_simplex_weights_beat_every_point_of_a_grid(streams, fusion_lambda):
    scores, labels = random_scores(1, streams)
    weights = fit(scores, labels, "simplex", fusion_lambda).weights
    for y in range(CLASSES):
        grid = list(simplex_grid(len(streams), 10))
        values = [objective(w, scores, labels, y, fusion_lambda) for w in grid]
        np.testing.assert_allclose(weights[y], grid[int(np.argmax(values))], atol=1e-9)


@pytest.mark.parametrize("fusion_lambda", [0.05, 0.3])
def test_simplex_weights_are_the_vertex_of_the_largest_gain(fusion_lambda):
    scores, labels = random_scores(2, ("a", "b", "c"))
    weights = fit(scores, labels, "simplex", fusion_lambda).weights
    for y in range(CLASSES):
        gains = [objective(w, scores, labels, y, fusion_lambda) for w in np.eye(3)]
        np.testing.assert_allclose(weights[y], np.eye(3)[int(np.argmax(gains))], atol=1e-9)


@pytest.mark.parity("STILT", "adaptively weighted fusion (eqs. 5–7)")
@pytest.mark.parametrize(("constraint", "floor"), [("simplex", 0), ("floor", FLOOR)])
def test_weights_are_the_optimum_of_the_printed_linear_program(constraint, floor):
    """Eq. 5 as a linear program of all classes' weights, solved by HiGHS."""
    for seed in range(10):
        scores, labels = random_scores(seed, streams=("a", "b", "c"))
        objectives = [
            [objective(unit, scores, labels, label, 0.7) for unit in np.eye(3)]
            for label in range(CLASSES)
        ]
        solved = linprog(
            -np.ravel(objectives),
            A_eq=np.kron(np.eye(CLASSES), np.ones(3)),
            b_eq=np.ones(CLASSES),
            bounds=(floor, 1),
            method="highs",
        )
        weights = fit(scores, labels, constraint, 0.7).weights
        np.testing.assert_allclose(weights.ravel(), solved.x, atol=1e-9)


def test_simplex_weights_follow_a_gain_that_is_smaller_than_the_solvers_tolerance():
    scores = {"a": np.full((4, 2), 0.5), "b": np.full((4, 2), 0.5)}
    labels = np.array([0, 0, 1, 1])
    scores["b"][0, 0] += 1e-10
    assert fit(scores, labels, "simplex").weights[0].tolist() == [0, 1]


def test_floor_weights_beat_every_point_of_a_grid_above_the_floor():
    scores, labels = random_scores(3)
    weights = fit(scores, labels, "floor", 0.5).weights
    grid = [w for w in simplex_grid(2, 10) if w.min() >= FLOOR - 1e-12]
    for y in range(CLASSES):
        values = [objective(w, scores, labels, y, 0.5) for w in grid]
        np.testing.assert_allclose(weights[y], grid[int(np.argmax(values))], atol=1e-9)
    assert sorted(np.unique(weights.round(9))) == [FLOOR, 1 - FLOOR]


@pytest.mark.parametrize("fusion_lambda", [0.1, 0.9, 1.5])
def test_l2_weights_beat_every_direction_of_the_nonnegative_quadrant(fusion_lambda):
    scores, labels = random_scores(4)
    weights = fit(scores, labels, "l2", fusion_lambda).weights
    np.testing.assert_allclose(np.linalg.norm(weights, axis=1), 1)
    angles = np.linspace(0, np.pi / 2, 181)
    grid = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for y in range(CLASSES):
        values = [objective(w, scores, labels, y, fusion_lambda) for w in grid]
        ours = objective(weights[y], scores, labels, y, fusion_lambda)
        assert ours >= max(values) - 1e-12
        assert np.abs(weights[y] - grid[int(np.argmax(values))]).max() < 0.02


def test_l2_weights_of_a_class_without_positive_gain_take_the_best_stream():
    scores, labels = random_scores(5)
    weights = fit(scores, labels, "l2", 50.0).weights
    simplex = fit(scores, labels, "simplex", 50.0).weights
    np.testing.assert_allclose(weights, simplex, atol=1e-9)


def test_entropy_weights_agree_with_a_general_solver():
    scores, labels = random_scores(6, ("a", "b", "c"))
    weights = fit(scores, labels, "entropy", 0.4).weights
    for y in range(CLASSES):

        def negated(w, y=y):
            w = np.maximum(w, 1e-12)
            return TEMPERATURE * (w @ np.log(w)) - objective(w, scores, labels, y, 0.4)

        solved = minimize(
            negated,
            np.full(3, 1 / 3),
            bounds=[(0, 1)] * 3,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-13},
        )
        np.testing.assert_allclose(weights[y], solved.x, atol=1e-5)


def test_fused_scores_are_equation_nine():
    scores, labels = random_scores(8)
    fusion = fit(scores, labels, "l2")
    fused = fusion.fuse(scores)
    for t in range(0, VIDEOS, 7):
        for y in range(CLASSES):
            stacked = np.stack([scores[stream][t] for stream in fusion.streams])  # (2, N)
            picked = np.eye(CLASSES)[y]
            assert fused[t, y] == pytest.approx(fusion.weights[y] @ stacked @ picked)


def test_lambda_moves_the_vertex():
    scores = {"loud": np.array([[0.9, 0.1], [0.8, 0.2]]), "quiet": np.array([[0.6, 0.4], [0, 1]])}
    labels = np.array([0, 1])
    assert fit(scores, labels, "simplex", 0.1).weights[0].tolist() == [1, 0]
    assert fit(scores, labels, "simplex", 1.0).weights[0].tolist() == [0, 1]


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_fusion_beats_the_average_where_each_stream_knows_half_of_the_classes(constraint):
    rng = np.random.default_rng(9)
    labels = np.arange(4000) % 10
    scores = {}
    for stream, knows in (("spatial", labels < 5), ("temporal", labels >= 5)):
        logits = rng.normal(size=(4000, 10))
        logits[np.arange(4000), labels] += np.where(knows, 3.0, 0.0)
        scores[stream] = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    known = {stream: array[:2000] for stream, array in scores.items()}
    test = {stream: array[2000:] for stream, array in scores.items()}
    fused = fit(known, labels[:2000], constraint).fuse(test)
    assert top1(fused, labels[2000:]) > top1(late_fusion(test), labels[2000:]) + 0.02


# Invariances


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_weights_do_not_depend_on_the_order_of_the_videos(constraint):
    scores, labels = random_scores(10)
    order = np.random.default_rng(0).permutation(VIDEOS)
    straight = fit(scores, labels, constraint).weights
    shuffled = fit(
        {stream: array[order] for stream, array in scores.items()}, labels[order], constraint
    )
    np.testing.assert_allclose(shuffled.weights, straight, atol=1e-9)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_fused_scores_do_not_depend_on_the_order_of_the_streams(constraint):
    scores, labels = random_scores(11, ("a", "b", "c"))
    swapped = dict(reversed(scores.items()))
    straight = fit(scores, labels, constraint)
    other = fit(swapped, labels, constraint)
    np.testing.assert_allclose(other.weights[:, ::-1], straight.weights, atol=1e-9)
    np.testing.assert_allclose(straight.fuse(swapped), straight.fuse(scores))


@pytest.mark.parametrize("constraint", ["simplex", "floor", "l2"])
def test_weights_do_not_depend_on_the_unit_of_the_scores(constraint):
    scores, labels = random_scores(12)
    straight = fit(scores, labels, constraint).weights
    scaled = {stream: 1e-6 * array for stream, array in scores.items()}
    np.testing.assert_allclose(fit(scaled, labels, constraint).weights, straight, atol=1e-9)


def test_weights_are_those_of_the_printed_sums_at_a_smaller_lambda_where_classes_are_balanced():
    scores, labels = random_scores(13)
    weights = fit(scores, labels, "simplex", 0.8).weights
    for y in range(CLASSES):
        values = []
        for w in np.eye(2):
            positive, negative = rows_of_eqs_6_and_7(w, scores, labels, y)
            values.append(sum(positive) - 0.8 / (CLASSES - 1) * sum(negative))
        np.testing.assert_allclose(weights[y], np.eye(2)[int(np.argmax(values))], atol=1e-9)


def test_awf_on_training_scores_solves_the_printed_sums():
    train, test = PARTS["train"], PARTS["test"]
    fused = FUSIONS["awf-train"].fuse(PARTS, groups=GROUPS, fusion_lambda=0.05)
    for y, weights in enumerate(fused.details["weights"]):
        values = []
        for w in np.eye(2):
            positive, negative = rows_of_eqs_6_and_7(w, train.scores, train.labels, y)
            values.append(sum(positive) - 0.05 * sum(negative))
        assert weights == np.eye(2)[int(np.argmax(values))].tolist()
        of_class = sum(w * test.scores[s][:, y] for w, s in zip(weights, test.scores, strict=True))
        np.testing.assert_allclose(fused.parts["test"][:, y], of_class)


def test_awf_on_training_scores_is_fitted_on_all_that_the_tested_network_saw():
    """Its λ is chosen on the network that held the validation part out."""
    every = random_part(54)
    refitted = FUSIONS["awf-train"].fuse({**PARTS, "all": every}, groups=GROUPS)
    held_out = FUSIONS["awf-train"].fuse(PARTS, groups=GROUPS)
    assert refitted.fusion_lambda == held_out.fusion_lambda
    np.testing.assert_array_equal(refitted.parts["validation"], held_out.parts["validation"])
    of_all, of_train, direct = (
        FUSIONS["awf-train"].fuse(parts, groups=GROUPS, fusion_lambda=0.05).details
        for parts in ({**PARTS, "all": every}, PARTS, {**PARTS, "train": every})
    )
    assert of_all == direct != of_train


@pytest.mark.parametrize(
    ("constraint", "equal"), [("simplex", 0.5), ("floor", 0.5), ("l2", 0.5**0.5), ("entropy", 0.5)]
)
def test_a_class_without_a_video_gets_equal_weights(constraint, equal):
    scores, labels = random_scores(14)
    kept = labels != 3
    fusion = fit(
        {stream: array[kept] for stream, array in scores.items()}, labels[kept], constraint
    )
    np.testing.assert_allclose(fusion.weights[3], equal)
    assert fusion.fuse(scores).shape == (VIDEOS, CLASSES)


def test_one_class_alone_can_be_fitted():
    scores = {"a": np.array([[0.9, 0.1]]), "b": np.array([[0.2, 0.8]])}
    assert fit(scores, np.array([0]), "simplex").weights[0].tolist() == [1, 0]


# Cross-fitting and selection


def grouped_scores(seed=20, videos_a_group=3):
    scores, labels = random_scores(seed)
    groups = [f"{label}/g{i // (videos_a_group * CLASSES)}" for i, label in enumerate(labels)]
    return scores, labels, groups


class Recorded:
    """Remembers which videos each fusion of a cross-fit was fitted on and judged."""

    def __init__(self, scores):
        self.ids = {row.tobytes(): i for i, row in enumerate(scores["spatial"])}
        self.fitted, self.judged = [], []

    def fit(self, scores, labels, groups):
        self.fitted.append([self.ids[row.tobytes()] for row in scores["spatial"]])
        self.fusion = fit(scores, labels)
        return self

    def fuse(self, scores):
        self.judged.append([self.ids[row.tobytes()] for row in scores["spatial"]])
        return self.fusion.fuse(scores)


def test_cross_fitting_never_judges_a_video_by_weights_that_saw_its_group():
    scores, labels, groups = grouped_scores()
    recorded = Recorded(scores)
    cross_fit(recorded.fit, scores, labels, groups)
    assert len(recorded.fitted) == 5
    for fitted, judged in zip(recorded.fitted, recorded.judged, strict=True):
        assert {groups[i] for i in fitted}.isdisjoint(groups[i] for i in judged)
    assert sorted(itertools.chain(*recorded.judged)) == list(range(VIDEOS))


def test_every_fold_is_fitted_on_every_class_where_groups_allow():
    scores, labels, groups = grouped_scores()
    assert min(len({g for g in groups if g.startswith(f"{y}/")}) for y in range(CLASSES)) >= 2
    recorded = Recorded(scores)
    cross_fit(recorded.fit, scores, labels, groups)
    assert all(set(labels[fitted]) == set(range(CLASSES)) for fitted in recorded.fitted)


def test_a_score_that_could_leak_does_not_change_the_weights_that_judge_it():
    scores, labels, groups = grouped_scores()
    soft = partial(fit, constraint="entropy")
    before = cross_fit(lambda s, y, _: soft(s, y), scores, labels, groups)
    leaking = {stream: array.copy() for stream, array in scores.items()}
    planted = [i for i, group in enumerate(groups) if group == groups[0]]
    leaking["temporal"][planted] = 1e6 * np.eye(CLASSES)[labels[planted]]
    after = cross_fit(lambda s, y, _: soft(s, y), leaking, labels, groups)
    weight = (before - scores["spatial"])[planted] / (scores["temporal"] - scores["spatial"])[
        planted
    ]
    own = (1 - weight) * leaking["spatial"][planted] + weight * leaking["temporal"][planted]
    np.testing.assert_allclose(after[planted], own)
    fitted_on_all = soft(leaking, labels).fuse(leaking)
    assert np.abs(after[planted] - fitted_on_all[planted]).max() > 1e3


def test_cross_fitted_scores_do_not_depend_on_the_order_of_the_videos():
    scores, labels, groups = grouped_scores()
    order = np.random.default_rng(1).permutation(VIDEOS)
    straight = cross_fit(fit_on, scores, labels, groups)
    shuffled = cross_fit(
        fit_on,
        {stream: array[order] for stream, array in scores.items()},
        labels[order],
        [groups[i] for i in order],
    )
    np.testing.assert_allclose(shuffled, straight[order])


def test_fewer_groups_than_folds_leave_one_group_out():
    scores, labels = random_scores(21)
    groups = np.arange(VIDEOS) % 2
    fused = cross_fit(fit_on, scores, labels, groups.tolist())
    for judged in (0, 1):
        other = {stream: array[groups != judged] for stream, array in scores.items()}
        expected = fit(other, labels[groups != judged]).fuse(scores)[groups == judged]
        np.testing.assert_allclose(fused[groups == judged], expected)


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_the_chosen_lambda_is_the_first_with_the_best_cross_fitted_top1(constraint):
    scores, labels, groups = grouped_scores(22)
    recorded = Recorded(scores)
    cross_fit(recorded.fit, scores, labels, groups)
    right = dict.fromkeys(LAMBDAS, 0)
    for fitted, judged in zip(recorded.fitted, recorded.judged, strict=True):
        known = {stream: array[fitted] for stream, array in scores.items()}
        held_out = {stream: array[judged] for stream, array in scores.items()}
        for lam in LAMBDAS:
            fused = fit(known, labels[fitted], constraint, lam).fuse(held_out)
            right[lam] += (fused.argmax(axis=1) == labels[judged]).sum()
    assert len(set(right.values())) > 1
    assert choose_lambda(constraint, scores, labels, groups) == max(right, key=right.__getitem__)


def vague_part(rng, videos, *, signal=1.0):
    """Videos of which two streams know about equally little, whatever the class."""
    labels = np.arange(videos) % CLASSES
    features = {
        stream: rng.normal(size=(videos, CLASSES)) + signal * np.eye(CLASSES)[labels]
        for stream in ("spatial", "temporal")
    }
    scores = {stream: softmax(logits, axis=1) for stream, logits in features.items()}
    return SomePart(labels, scores, features)


@pytest.mark.parametrize("name", ["awf-simplex", "awf-entropy", "awf-train", "early"])
def test_validation_accuracy_is_that_of_fresh_videos_where_something_is_chosen(name):
    """The accuracy at the λ or C that is best on the same videos is above it, by simulation."""
    rng = np.random.default_rng(60)
    reached = []
    for _ in range(60):
        parts = {
            part: vague_part(rng, videos)
            for part, videos in (("train", 40), ("validation", 40), ("test", 2000))
        }
        groups = [i // 2 for i in range(40)]
        held_out = parts["validation"]
        fused = FUSIONS[name].fuse(parts, groups=groups)
        reached.append(
            (
                top1(fused.parts["validation"], held_out.labels),
                top1(fused.parts["test"], parts["test"].labels),
                best_on_validation(name, parts, groups),
            )
        )
    apart, fresh, chosen = np.array(reached).T
    error = (apart - fresh).std(ddof=1) / len(fresh) ** 0.5
    assert abs((apart - fresh).mean()) < 3 * error
    assert (chosen - fresh).mean() > (apart - fresh).mean() + 0.01


def best_on_validation(name, parts, groups):
    """The optimistic accuracy: of what was chosen, on the videos that it was chosen on."""
    held_out = parts["validation"]
    if name == "early":
        svms = EarlyFusion.fit_each(
            parts["train"].features, parts["train"].labels, num_classes=CLASSES
        )
        return max(top1(svm.decide(held_out.features), held_out.labels) for svm in svms)
    return max(
        top1(
            FUSIONS[name].fuse(parts, groups=groups, fusion_lambda=one).parts["validation"],
            held_out.labels,
        )
        for one in LAMBDAS
    )


def test_a_candidate_is_chosen_without_the_fold_that_it_is_judged_on():
    labels = np.arange(20) % 2
    groups = [i // 2 for i in range(20)]
    right = np.random.default_rng(0).random((30, 20)) < 0.5
    chosen = chosen_without(right, labels, groups)
    for group in set(groups):
        judged = np.array(groups) == group
        changed = right.copy()
        changed[:, judged] ^= True
        np.testing.assert_array_equal(
            chosen_without(changed, labels, groups)[judged], chosen[judged]
        )
    assert len(set(chosen.tolist())) > 1, "folds differ in what they choose"
    best = np.vstack([right, np.ones((2, 20), bool)])
    assert set(chosen_without(best, labels, groups).tolist()) == {30}, "the first of equals"


# Early fusion


def random_features(seed=30, classes=CLASSES, videos=120):
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % classes
    centres = {"spatial": rng.normal(size=(classes, 6)), "temporal": rng.normal(size=(classes, 4))}
    return {
        stream: centre[labels] + rng.normal(size=(videos, centre.shape[1])) * [[1.0]]
        for stream, centre in centres.items()
    }, labels


def split(features, labels, *, first):
    return (
        {stream: array[:first] for stream, array in features.items()},
        labels[:first],
        {stream: array[first:] for stream, array in features.items()},
        labels[first:],
    )


def fit_early(*parts, num_classes=CLASSES):
    return EarlyFusion.fit(*parts, num_classes=num_classes)


def test_early_fusion_is_scikit_learns_pipeline_at_the_best_c():
    x, y, held_out, held_out_y = split(*random_features(), first=80)
    fusion = fit_early(x, y, held_out, held_out_y)
    joined, joined_held_out = (np.hstack([f["spatial"], f["temporal"]]) for f in (x, held_out))
    tried = []
    for c in C_GRID:
        svm = make_pipeline(
            StandardScaler(),
            FunctionTransformer(lambda x: x / 10**0.5),
            LinearSVC(C=c, random_state=0, max_iter=10_000, tol=1e-6),
        )
        accuracy = svm.fit(joined, y).score(joined_held_out, held_out_y)
        tried.append((accuracy, c, svm.decision_function(joined_held_out)))
    accuracy, c, decisions = max(tried, key=lambda one: one[0])  # the first of those that tie
    assert fusion.c == c
    assert top1(fusion.decide(held_out), held_out_y) == pytest.approx(accuracy)
    np.testing.assert_allclose(fusion.decide(held_out), decisions, atol=1e-2)


def test_the_svm_on_scores_is_early_fusion_of_stacked_scores_of_length_one():
    def stacked(part):
        return {
            stream: np.array([row / np.sqrt(np.square(row).sum()) for row in array])
            for stream, array in part.scores.items()
        }

    expected = fit_early(
        *(f for part in ("train", "validation") for f in (stacked(PARTS[part]), PARTS[part].labels))
    )
    fused = FUSIONS["scores-svm"].fuse(PARTS, groups=GROUPS)
    assert fused.details["c"] == expected.c
    np.testing.assert_allclose(fused.parts["test"], expected.decide(stacked(PARTS["test"])))


def test_early_fusion_does_not_depend_on_a_features_unit_or_the_order_of_a_mapping():
    x, y, held_out, held_out_y = split(*random_features(), first=80)
    straight = fit_early(x, y, held_out, held_out_y).decide(held_out)
    scaled, scaled_held_out = (
        {"temporal": f["temporal"], "spatial": 1000 * f["spatial"]} for f in (x, held_out)
    )
    other = fit_early(scaled, y, scaled_held_out, held_out_y).decide(scaled_held_out)
    np.testing.assert_allclose(other, straight, atol=1e-4)


def test_early_fusion_ranks_classes_without_training_videos_last():
    x, y, held_out, held_out_y = split(*random_features(), first=80)
    kept = y != 2
    x = {stream: array[kept] for stream, array in x.items()}
    fusion = fit_early(x, y[kept], held_out, held_out_y, num_classes=7)
    decisions = fusion.decide(held_out)
    assert decisions.shape == (40, 7)
    assert np.isfinite(decisions).all()
    assert (np.sort(decisions.argsort(axis=1)[:, :3], axis=1) == [2, 5, 6]).all()
    assert top1(decisions, held_out_y) > 0.4


@pytest.mark.parametrize("classes", [1, 2])
def test_early_fusion_handles_few_classes(classes):
    x, y, held_out, held_out_y = split(*random_features(classes=classes), first=80)
    decisions = fit_early(x, y, held_out, held_out_y, num_classes=classes).decide(held_out)
    assert decisions.shape == (40, classes)
    assert top1(decisions, held_out_y) > 0.85


# Bad input


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_scores_that_are_not_finite_are_refused_by_row(constraint):
    scores, labels = random_scores()
    scores["temporal"][7, 2] = np.nan
    with pytest.raises(ValueError, match=r"'temporal' must be finite, but 1 are not.*row 7"):
        fit(scores, labels, constraint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, y: ({**s, "temporal": s["temporal"][:-1]}, y), "same shape"),
        (lambda s, y: ({**s, "temporal": s["temporal"][:, :-1]}, y), "same shape"),
        (lambda s, y: ({**s, "temporal": s["temporal"][0]}, y), r"shape \(V, N\)"),
        (lambda s, y: ({"a": np.ones((VIDEOS, CLASSES), dtype=int)}, y), "float array"),
        (lambda s, y: ({}, y), "at least one stream"),
        (lambda s, y: ({"a": np.zeros((0, CLASSES))}, y[:0]), "empty"),
        (lambda s, y: (s, y[:-1]), "90 integers"),
        (lambda s, y: (s, y.astype(float)), "90 integers"),
        (lambda s, y: (s, np.where(y == 4, 5, y)), r"0\.\.4, but got 0\.\.5"),
        (lambda s, y: (s, y - 1), r"0\.\.4, but got -1\.\.3"),
    ],
)
def test_scores_and_labels_that_do_not_fit_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        fit(*change(*random_scores()))


@pytest.mark.parametrize("fusion_lambda", [-1.0, np.nan, np.inf])
def test_a_lambda_out_of_range_is_refused(fusion_lambda):
    scores, labels = random_scores()
    with pytest.raises(ValueError, match="fusion_lambda must be finite and >= 0"):
        fit(scores, labels, fusion_lambda=fusion_lambda)


def test_other_streams_or_classes_than_those_of_the_fit_are_refused():
    scores, labels = random_scores()
    fusion = fit(scores, labels)
    with pytest.raises(ValueError, match=r"\['spatial', 'temporal'\] with 5 classes"):
        fusion.fuse({"spatial": scores["spatial"]})
    with pytest.raises(ValueError, match="4 classes"):
        fusion.fuse({stream: array[:, :4] for stream, array in scores.items()})


def test_cross_fitting_refuses_what_it_cannot_split():
    scores, labels = random_scores()
    with pytest.raises(ValueError, match="90 videos, but got 3"):
        cross_fit(fit_on, scores, labels, ["a", "b", "c"])
    with pytest.raises(ValueError, match="at least 2 groups"):
        cross_fit(fit_on, scores, labels, ["a"] * VIDEOS)


def test_early_fusion_refuses_what_does_not_fit():
    x, y, held_out, held_out_y = split(*random_features(), first=80)
    with pytest.raises(ValueError, match=r"'temporal': 4}, but got \{'spatial': 6\}"):
        fit_early(x, y, {"spatial": held_out["spatial"]}, held_out_y)
    with pytest.raises(ValueError, match=r"0\.\.2, but got 0\.\.4"):
        fit_early(x, y, held_out, held_out_y, num_classes=3)
