"""Fusion of two streams' predictions: late, early and adaptively weighted.

``FUSIONS``, at the end of this file, is the one table of fusions: what an arm may name, and what
the rest of the project has to know of each. A new fusion is a line there, with what fits it here.

Arrays in, arrays out. A score is a softmax score of one video for one class in one stream;
``scores`` maps a stream's name to an array (V, N) of V videos and N classes.

**Adaptively weighted fusion (AWF)** is of Liu et al., "Spatial-temporal interaction learning based
two-stream network for action recognition", Information Sciences, 2022, section 3.3. Each class y
has its own weights W_y, one a stream::

    S_x^y = [S_x,1; S_x,2]                              scores of video x of class y     (eq. 4)
    W_y   = argmax P_y - λ M_y                                                           (eq. 5)
    P_y   = Σ_{x ∈ y} W_y S_x^y Y_y                     score for y of the videos of y   (eq. 6)
    M_y   = Σ_{k ≠ y} Σ_{x ∈ k} W_y S_x^k Y_y           score for y of all others        (eq. 7)
    S_t   = [S_t,1; S_t,2]                              scores of a new video t          (eq. 8)
    class = argmax_y W_y S_t Y_y                                                         (eq. 9)

with Y_y the unit vector that picks class y. P_y and M_y are divided by their numbers of videos
here (ours): the videos of other classes outnumber those of y by about N - 1 to one, which with
sums is a factor on λ. The sums, on the scores of the training videos, are ``train`` here: as the
paper has it, though what the weights promise on videos that the streams have learned is optimistic.
The paper solves eq. 5 "by linear programming" and states no constraint.
The objective is linear in W_y, so without one it is unbounded, and on the simplex (w >= 0,
Σ w = 1) its optimum is a *vertex*: the weights become a hard choice of one stream for each class,
the one with the largest gain P_y - λ M_y, and λ only moves which. That literal reading is
``simplex`` here; ``floor``, ``l2`` and ``entropy`` are ours, for a soft choice.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

if TYPE_CHECKING:  # what reads the table alone, as every training does, waits for no solver
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

__all__ = [
    "CONSTRAINTS",
    "C_GRID",
    "FLOOR",
    "FUSIONS",
    "LAMBDAS",
    "TEMPERATURE",
    "AdaptiveFusion",
    "Constraint",
    "EarlyFusion",
    "Fitted",
    "FusedScores",
    "Fusion",
    "LinearClassifier",
    "Part",
    "WeightedSum",
    "choose_lambda",
    "chosen_without",
    "cross_fit",
    "late_fusion",
    "unit_scores",
]

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Streams = Mapping[str, FloatArray]
Constraint = Literal["simplex", "floor", "l2", "entropy"]

CONSTRAINTS: tuple[Constraint, ...] = get_args(Constraint)
LAMBDAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
"""The values of λ that a fusion chooses from where none is given."""
FLOOR = 0.2
"""Least weight of a stream under the constraint ``floor``."""
TEMPERATURE = 0.1
"""Weight of the entropy under the constraint ``entropy``, in the unit of a score."""
FOLDS = 5
C_GRID = (0.01, 0.1, 1.0, 10.0)


class Part(Protocol):
    """What V videos of one part of a split are fused from."""

    @property
    def labels(self) -> IntArray:
        """(V,) true classes in 0..N-1."""

    @property
    def scores(self) -> Streams:
        """(V, N) softmax scores by stream."""

    @property
    def features(self) -> Streams:
        """(V, D) the vector that each stream's classifier sees, by stream."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fitted:
    """A fusion that is ready to fuse.

    Attributes:
        fuse: From a part to its (V, N) fused scores.
        validation: (V, N) scores that take the place of the validation part's own, each under
            what was fitted and chosen without the video's group; None where `fuse` serves.
        fusion_lambda: The λ that was given or chosen, None for a fusion without.
        details: What was fitted or chosen, for the record (JSON-able).
        rule: What `fuse` computes, as numbers that need no code of this project; None for a fusion
            that is neither kind of rule.
    """

    fuse: Callable[[Part], FloatArray]
    validation: FloatArray | None = None
    fusion_lambda: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    rule: "WeightedSum | LinearClassifier | None" = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WeightedSum:
    """A fusion Σ_s weights[s][y] · scores_s[x, y] of the streams' scores.

    Attributes:
        weights: By stream, (N,) one a class.
    """

    weights: Mapping[str, FloatArray]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearClassifier:
    """A fusion (features - mean) · weightᵀ + bias of the streams' features, joined.

    A class that is not in `classes` gets one less than the smallest of the others.

    Attributes:
        streams: The streams in the order in which their features are joined, to D numbers.
        mean: (D,).
        weight: (M, D).
        bias: (M,).
        classes: (M,) the classes of the rows, ascending.
        num_classes: N.
    """

    streams: tuple[str, ...]
    mean: FloatArray
    weight: FloatArray
    bias: FloatArray
    classes: IntArray
    num_classes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedScores:
    """An arm's one score matrix for each part, and what the fusion chose.

    Attributes:
        parts: (V, N) by part; higher is more likely. Validation is cross-fitted where anything
            is fitted or chosen on it, so that its accuracy is an unbiased estimate.
        fusion_lambda: As of `Fitted`.
        details: As of `Fitted`.
    """

    parts: Mapping[str, FloatArray]
    fusion_lambda: float | None
    details: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fusion:
    """How the streams' scores become one: an entry of `FUSIONS`.

    Attributes:
        fit: From the parts by name, the group of each validation video and λ (None to choose it)
            to the fitted fusion.
        stream: The one stream that it reads, or None for all that the network has.
        reads_train: Whether it reads the train part, its scores or its features.
        fits_on_validation: Whether it fits or chooses anything on the validation part.
        takes_lambda: Whether λ makes a difference to it.
    """

    fit: Callable[[Mapping[str, Part], Sequence[Hashable], float | None], Fitted]
    stream: str | None = None
    reads_train: bool = False
    fits_on_validation: bool = False
    takes_lambda: bool = False

    def fuse(
        self,
        parts: Mapping[str, Part],
        *,
        groups: Sequence[Hashable] = (),
        fusion_lambda: float | None = None,
    ) -> FusedScores:
        """Fits the fusion and fuses every part but ``train`` and ``all``.

        Args:
            parts: The parts by name; ``train`` and ``validation`` where it is fitted on them. Where
                the network that scored the test part is another, trained on both of them, ``all``
                has its scores and features of both.
            groups: (V,) source video of each validation video; cross-fitting never divides one.
            fusion_lambda: λ >= 0, or None to choose it from `LAMBDAS`.

        Raises:
            ValueError: If a part or the stream that it reads is missing, or the arrays don't fit.
        """
        needed = ["train"] * self.reads_train + ["validation"] * self.fits_on_validation
        if not set(needed) <= set(parts):
            raise ValueError(
                f"the fusion is fitted on the {' and '.join(needed)} part, but there are only "
                f"scores of {', '.join(parts)}; score what is missing, or choose another fusion"
            )
        judged = {name: part for name, part in parts.items() if name not in ("train", "all")}
        for part in judged.values():
            if self.stream is not None and self.stream not in part.scores:
                raise ValueError(
                    f"the fusion reads stream {self.stream!r}, but the network has "
                    f"{', '.join(part.scores) or 'no stream'}; choose one that it has"
                )
        fitted = self.fit(parts, groups, fusion_lambda)
        fused = {name: fitted.fuse(part) for name, part in judged.items()}
        if fitted.validation is not None:
            fused["validation"] = fitted.validation
        return FusedScores(parts=fused, fusion_lambda=fitted.fusion_lambda, details=fitted.details)


# Late fusion


def late_fusion(scores: Streams, weights: Mapping[str, float] | None = None) -> FloatArray:
    """Returns the weighted mean of the streams' scores.

    Args:
        scores: (V, N) scores by stream.
        weights: A positive weight for each stream, such as ``{"spatial": 1, "temporal": 1.5}``;
            divided by their sum over the streams. None is the plain average.

    Returns:
        (V, N) fused scores.

    Raises:
        ValueError: If the scores' shapes differ or a score is not finite.
    """
    _check_streams(scores, "scores")
    values = np.array([1.0 if weights is None else weights[stream] for stream in scores])
    return _sum_streams(scores, values[None] / values.sum())


def _late(weights: Mapping[str, float] | None = None) -> Fusion:
    def fit(parts: Mapping[str, Part], *_: object) -> Fitted:
        scores = _any_scores(parts)
        values = {stream: 1.0 if weights is None else weights[stream] for stream in scores}
        total = sum(values.values())
        return Fitted(
            fuse=lambda part: late_fusion(part.scores, weights),
            details={} if weights is None else {"weights": weights},
            rule=WeightedSum(
                weights={
                    stream: np.full(_num_classes(scores), value / total)
                    for stream, value in values.items()
                }
            ),
        )

    return Fusion(fit=fit)


def _one_stream(stream: str) -> Fusion:
    def fit(parts: Mapping[str, Part], *_: object) -> Fitted:
        classes = _num_classes(_any_scores(parts))
        return Fitted(
            fuse=lambda part: part.scores[stream],
            rule=WeightedSum(weights={stream: np.ones(classes)}),
        )

    return Fusion(fit=fit, stream=stream)


# Adaptively weighted fusion


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AdaptiveFusion:
    """Adaptively weighted fusion: for each class its own weights over the streams (eqs. 4-9).

    With the gain g_y = P_y - λ M_y of each stream taken alone (a vector of S numbers), the weights
    of class y maximise w·g_y under one of these constraints. All but the first are ours.

    - ``simplex``: w >= 0, Σ w = 1. The literal linear program; its optimum is the vertex of the
      stream with the largest gain.
    - ``floor``: as ``simplex`` with w >= `FLOOR`, so that no stream is silenced.
    - ``l2``: w >= 0, ‖w‖ <= 1. The optimum is max(g, 0) / ‖max(g, 0)‖. Where no stream has a
      positive gain it would be w = 0 and the class could never be predicted; then ‖w‖ = 1 is
      required instead, and the largest gain takes it all.
    - ``entropy``: w >= 0, Σ w = 1, and `TEMPERATURE` times the entropy of w is added to the
      objective. The optimum is softmax(g / `TEMPERATURE`).

    Attributes:
        streams: The streams' names in the order of the weights' columns.
        weights: (N, S) the fitted weights.
        fusion_lambda: The λ that they were fitted with.
    """

    streams: tuple[str, ...]
    weights: FloatArray
    fusion_lambda: float

    @classmethod
    def fit(
        cls,
        scores: Streams,
        labels: IntArray,
        *,
        constraint: Constraint,
        fusion_lambda: float,
        sums: bool = False,
    ) -> "AdaptiveFusion":
        """Fits the weights of every class.

        Fit them on videos that the streams were *not* trained on: scores on training videos are
        near one for every stream and don't show which to trust. A class without a video has no
        P_y and gets equal weights (ours).

        Args:
            scores: (V, N) softmax scores by stream.
            labels: (V,) classes in 0..N-1.
            constraint: The constraint on a class's weights.
            fusion_lambda: λ >= 0 of eq. 5.
            sums: Whether P_y and M_y are the sums of eqs. 6 and 7, not divided by their videos.

        Raises:
            ValueError: If shapes differ, a score is not finite, a label is out of range, or λ is
                not a finite number >= 0.
        """
        if not (np.isfinite(fusion_lambda) and fusion_lambda >= 0):
            raise ValueError(f"fusion_lambda must be finite and >= 0, but got {fusion_lambda}")
        _check_streams(scores, "scores")
        _check_labels(labels, scores, classes=_num_classes(scores))
        gains = _gains(scores, labels, fusion_lambda, sums=sums)
        equal = 1 / len(scores)
        if constraint == "l2":
            weights = _solve_unit_ball(gains)
            equal = len(scores) ** -0.5
        elif constraint == "entropy":
            weights = softmax(gains / TEMPERATURE, axis=1)
        else:
            weights = _solve_linear_program(gains, FLOOR if constraint == "floor" else 0)
        weights[np.bincount(labels, minlength=len(weights)) == 0] = equal
        return cls(streams=tuple(scores), weights=weights, fusion_lambda=fusion_lambda)

    def fuse(self, scores: Streams) -> FloatArray:
        """Returns the fused scores W_y S_t Y_y of eq. 9, (V, N); the prediction is their argmax.

        Raises:
            ValueError: If the streams or classes are not those of the fit.
        """
        _check_streams(scores, "scores")
        if set(scores) != set(self.streams) or _num_classes(scores) != len(self.weights):
            raise ValueError(
                f"this fusion was fitted on the streams {sorted(self.streams)} with "
                f"{len(self.weights)} classes, but got {sorted(scores)} with "
                f"{_num_classes(scores)} classes"
            )
        return _sum_streams({stream: scores[stream] for stream in self.streams}, self.weights)


def _fit_adaptive(
    parts: Mapping[str, Part],
    groups: Sequence[Hashable],
    fusion_lambda: float | None,
    *,
    constraint: Constraint,
) -> Fitted:
    scores, labels = parts["validation"].scores, parts["validation"].labels

    def fit(scores: Streams, labels: IntArray, groups: Sequence[Hashable]) -> AdaptiveFusion:
        chosen = fusion_lambda
        if chosen is None:
            chosen = choose_lambda(constraint, scores, labels, groups)
        return AdaptiveFusion.fit(scores, labels, constraint=constraint, fusion_lambda=chosen)

    fitted = fit(scores, labels, groups)
    return Fitted(
        fuse=lambda part: fitted.fuse(part.scores),
        validation=cross_fit(fit, scores, labels, groups),
        fusion_lambda=fitted.fusion_lambda,
        details={"weights": np.round(fitted.weights, 6).tolist()},
        rule=WeightedSum(weights=dict(zip(fitted.streams, fitted.weights.T, strict=True))),
    )


def _fit_adaptive_on_train(
    parts: Mapping[str, Part], groups: Sequence[Hashable], fusion_lambda: float | None
) -> Fitted:
    """Fits eq. 5 as printed: its sums on the training videos, the simplex.

    The paper doesn't say where λ comes from; ours has the best top-1 on the validation part, and
    the smallest of those that tie.
    """
    validation = parts["validation"]
    grid = LAMBDAS if fusion_lambda is None else (fusion_lambda,)

    def fit(part: Part, value: float) -> AdaptiveFusion:
        return AdaptiveFusion.fit(
            part.scores, part.labels, constraint="simplex", fusion_lambda=value, sums=True
        )

    fused = np.stack([fit(parts["train"], value).fuse(validation.scores) for value in grid])
    right = fused.argmax(axis=2) == validation.labels
    chosen = grid[_first_best(right)]
    fitted = fit(parts.get("all", parts["train"]), chosen)
    apart: IntArray = np.zeros(len(validation.labels), dtype=np.int64)
    if len(grid) > 1:
        apart = chosen_without(right, validation.labels, groups)
    return Fitted(
        fuse=lambda part: fitted.fuse(part.scores),
        validation=fused[apart, np.arange(len(apart))],
        fusion_lambda=chosen,
        details={"weights": np.round(fitted.weights, 6).tolist()},
        rule=WeightedSum(weights=dict(zip(fitted.streams, fitted.weights.T, strict=True))),
    )


def choose_lambda(
    constraint: Constraint, scores: Streams, labels: IntArray, groups: Sequence[Hashable]
) -> float:
    """Returns the λ of `LAMBDAS` with the best cross-fitted top-1, the smallest of those that tie.

    Args:
        constraint: The constraint on a class's weights.
        scores: (V, N) scores by stream, of videos that the streams were not trained on.
        labels: (V,) classes.
        groups: (V,) source video of each video.

    Raises:
        ValueError: As `cross_fit`.
    """
    right = np.empty((len(LAMBDAS), len(labels)), dtype=bool)
    for fitted, held_out in _group_folds(labels, groups):
        known, judged = _take(scores, fitted), _take(scores, held_out)
        for row, fusion_lambda in zip(right, LAMBDAS, strict=True):
            fusion = AdaptiveFusion.fit(
                known, labels[fitted], constraint=constraint, fusion_lambda=fusion_lambda
            )
            row[held_out] = fusion.fuse(judged).argmax(axis=1) == labels[held_out]
    return LAMBDAS[_first_best(right)]


def cross_fit(
    fit: Callable[[Streams, IntArray, Sequence[Hashable]], AdaptiveFusion],
    scores: Streams,
    labels: IntArray,
    groups: Sequence[Hashable],
) -> FloatArray:
    """Returns the fused scores of every video under weights that were fitted without its group.

    Args:
        fit: From the scores, labels and groups of some of the videos to a fusion fitted on them,
            all its choices included; called once for each of at most 5 folds.
        scores: (V, N) scores by stream.
        labels: (V,) classes.
        groups: (V,) source video of each video; no group is in a fit and judged by it.

    Returns:
        (V, N) fused scores.

    Raises:
        ValueError: If shapes or labels don't fit, or there are fewer than two groups.
    """
    _check_streams(scores, "scores")
    _check_labels(labels, scores, classes=_num_classes(scores))
    fused = np.empty((len(labels), _num_classes(scores)))
    for fitted, held_out in _group_folds(labels, groups):
        fusion = fit(_take(scores, fitted), labels[fitted], [groups[i] for i in fitted])
        fused[held_out] = fusion.fuse(_take(scores, held_out))
    return fused


def chosen_without(
    right: NDArray[np.bool_], labels: IntArray, groups: Sequence[Hashable]
) -> IntArray:
    """Returns for every video the candidate that is best on the videos of other folds.

    A choice that is judged on the videos that it was made on is optimistic. Judged so, each video
    by what was chosen without its group, it isn't.

    Args:
        right: (K, V) whether each of K candidates is right of each video.
        labels: (V,) classes.
        groups: (V,) source video of each video.

    Returns:
        (V,) candidates in 0..K-1, the first of those that tie.

    Raises:
        ValueError: If the shapes don't fit, or there are fewer than two groups.
    """
    chosen = np.empty(len(labels), dtype=np.int64)
    for others, held_out in _group_folds(labels, groups):
        chosen[held_out] = right[:, others].sum(axis=1).argmax()
    return chosen


def _take(scores: Streams, videos: IntArray) -> dict[str, FloatArray]:
    return {stream: array[videos] for stream, array in scores.items()}


def _gains(
    scores: Streams, labels: IntArray, fusion_lambda: float, *, sums: bool = False
) -> FloatArray:
    """Returns the objective of eq. 5 for all of a class's weight on one stream, (N, S)."""
    classes = _num_classes(scores)
    videos = np.arange(len(labels))
    positives = np.zeros((classes, len(scores)))
    for column, array in zip(positives.T, scores.values(), strict=True):
        np.add.at(column, labels, array[videos, labels])
    totals = np.stack([s.sum(axis=0, dtype=np.float64) for s in scores.values()], axis=1)
    counts = np.bincount(labels, minlength=classes)[:, None]
    positive, negative = (1, 1) if sums else (counts, len(labels) - counts)
    gains: FloatArray = positives / np.maximum(positive, 1)
    gains -= fusion_lambda * (totals - positives) / np.maximum(negative, 1)
    return gains


def _solve_linear_program(gains: FloatArray, floor: float) -> FloatArray:
    """Maximises w·g for Σ w = 1, w >= floor: at a vertex, the first of those that tie."""
    classes, streams = gains.shape
    weights = np.full((classes, streams), float(floor))
    weights[np.arange(classes), gains.argmax(axis=1)] += 1 - streams * floor
    return weights


def _solve_unit_ball(gains: FloatArray) -> FloatArray:
    """Maximises w·g for w >= 0, ‖w‖ <= 1 (= 1 where no gain is positive), in closed form."""
    direction = np.maximum(gains, 0)
    hopeless = (direction == 0).all(axis=1)
    direction[hopeless] = gains[hopeless] == gains[hopeless].max(axis=1, keepdims=True)
    unit: FloatArray = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return unit


def _group_folds(
    labels: IntArray, groups: Sequence[Hashable]
) -> Iterator[tuple[IntArray, IntArray]]:
    """Yields pairs (fitted, held out) of video indices; no group is on both sides.

    Each group goes, largest of a class first, to the fold that holds the fewest videos of the
    group's commonest class, then the fewest videos: classes are spread over the folds as far as
    their groups allow. It depends on the videos' names and labels, not on their order.
    """
    if len(groups) != len(labels):
        raise ValueError(
            f"groups must name one source video for each of the {len(labels)} videos, "
            f"but got {len(groups)}"
        )
    members: dict[Hashable, list[int]] = {}
    for video, group in enumerate(groups):
        members.setdefault(group, []).append(video)
    if len(members) < 2:
        raise ValueError(
            f"cross-fitting needs videos of at least 2 groups, but all {len(labels)} are of "
            f"{len(members)}; hold out more source videos, or choose a fusion that fits nothing"
        )
    folds = min(FOLDS, len(members))
    commonest = {g: int(np.bincount(labels[videos]).argmax()) for g, videos in members.items()}
    ordered = sorted(members, key=lambda g: (commonest[g], -len(members[g]), str(g)))
    of_class = np.zeros((labels.max() + 1, folds), dtype=np.int64)
    fold_of = np.empty(len(labels), dtype=np.int64)
    for group in ordered:
        mine = of_class[commonest[group]]
        fold = min(range(folds), key=lambda f: (mine[f], of_class[:, f].sum(), f))
        fold_of[members[group]] = fold
        mine[fold] += len(members[group])
    for fold in range(folds):
        yield np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)


# Early fusion


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EarlyFusion:
    """Early fusion: a linear SVM on the concatenated features of the streams (STILT Table 5).

    Features are standardised by the training videos' mean and deviation and divided by the root
    of their number, so that a video's vector has a length near one and a value of C means the same
    for any backbone. The SVM is scikit-learn's `LinearSVC` (one against the rest, squared hinge),
    its C the one of `C_GRID` with the best top-1 on the validation videos, the smallest of those
    that tie. All this is ours; the paper says no more than "SVM".

    Attributes:
        c: The chosen C.
        widths: Size of each stream's features, in the order in which they are concatenated.
        scaler: Mean and deviation of the training videos' features.
        svm: The SVM at the chosen C; None where the training videos are all of one class.
        seen: The classes that have a training video, ascending.
        num_classes: N.
    """

    c: float
    widths: Mapping[str, int]
    scaler: "StandardScaler"
    svm: "LinearSVC | None"
    seen: IntArray
    num_classes: int

    @classmethod
    def fit(
        cls,
        features: Streams,
        labels: IntArray,
        validation_features: Streams,
        validation_labels: IntArray,
        *,
        num_classes: int,
    ) -> "EarlyFusion":
        """Trains one SVM for each C and returns the best.

        Args:
            features: (V, D_s) features of the training videos by stream.
            labels: (V,) their classes.
            validation_features: (U, D_s) features of the validation videos.
            validation_labels: (U,) their classes.
            num_classes: N.

        Raises:
            ValueError: If shapes, streams or labels don't fit.
        """
        _check_streams(validation_features, "features", same_width=False)
        _check_labels(validation_labels, validation_features, classes=num_classes)
        fusions = cls.fit_each(features, labels, num_classes=num_classes)
        decisions = np.stack([fusion.decide(validation_features) for fusion in fusions])
        return fusions[_first_best(decisions.argmax(axis=2) == validation_labels)]

    @classmethod
    def fit_each(
        cls,
        features: Streams,
        labels: IntArray,
        *,
        num_classes: int,
        grid: Sequence[float] = C_GRID,
    ) -> list["EarlyFusion"]:
        """Trains one SVM for each C of a grid, in its order.

        Args:
            features: (V, D_s) features of the training videos by stream.
            labels: (V,) their classes.
            num_classes: N.
            grid: The values of C.

        Raises:
            ValueError: If shapes or labels don't fit.
        """
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import LinearSVC

        _check_streams(features, "features", same_width=False)
        _check_labels(labels, features, classes=num_classes)
        joined = np.concatenate(list(features.values()), axis=1)
        scaler = StandardScaler().fit(joined)
        x = _standardised(scaler, joined)
        seen = np.unique(labels)

        def train(c: float) -> EarlyFusion:
            svm = None
            if len(seen) > 1:
                svm = LinearSVC(C=c, dual="auto", tol=1e-3, random_state=0).fit(x, labels)
            return cls(
                c=c,
                widths=_widths(features),
                scaler=scaler,
                svm=svm,
                seen=seen,
                num_classes=num_classes,
            )

        return [train(c) for c in grid]

    def decide(self, features: Streams) -> FloatArray:
        """Returns the decision values (V, N), larger for a likelier class.

        A class without a training video has no decision value; it gets one less than the row's
        smallest, so that it is last in every ranking.

        Raises:
            ValueError: If the streams or their features' sizes are not those of the fit.
        """
        _check_streams(features, "features", same_width=False)
        if _widths(features) != self.widths:
            raise ValueError(
                f"early fusion was fitted on features of sizes {self.widths}, but got "
                f"{_widths(features)}"
            )
        joined = np.concatenate([features[stream] for stream in self.widths], axis=1)
        if self.svm is None:  # one class only: nothing to separate
            values = np.zeros((len(joined), 1))
        else:
            values = self.svm.decision_function(_standardised(self.scaler, joined))
            if values.ndim == 1:  # two classes: the first one's margin is the negated second's
                values = np.stack([-values, values], axis=1)
        decisions = np.repeat(values.min(axis=1, keepdims=True) - 1, self.num_classes, axis=1)
        decisions[:, self.seen] = values
        return decisions

    def rule(self) -> LinearClassifier:
        """Returns what `decide` computes as one affine map, the standardisation worked into it."""
        width = sum(self.widths.values())
        weight, bias = np.zeros((1, width)), np.zeros(1)
        if self.svm is not None:
            weight, bias = self.svm.coef_, np.broadcast_to(self.svm.intercept_, len(self.svm.coef_))
            if len(weight) == 1:
                weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
        return LinearClassifier(
            streams=tuple(self.widths),
            mean=self.scaler.mean_,
            weight=weight / (self.scaler.scale_ * np.sqrt(width)),
            bias=bias,
            classes=self.seen,
            num_classes=self.num_classes,
        )


def _widths(features: Streams) -> dict[str, int]:
    return {stream: array.shape[1] for stream, array in features.items()}


def _standardised(scaler: "StandardScaler", x: FloatArray) -> FloatArray:
    standard: FloatArray = scaler.transform(x) / np.sqrt(x.shape[1])
    return standard


def unit_scores(part: Part) -> Streams:
    """Returns each stream's scores of length one, what the SVM of two-stream networks sees.

    Simonyan and Zisserman, "Two-stream convolutional networks for action recognition in videos",
    NIPS 2014: "a multi-class linear SVM on stacked L2-normalised softmax scores".

    Args:
        part: V videos.

    Returns:
        (V, N) by stream.
    """
    return {
        stream: array / np.linalg.norm(array, axis=1, keepdims=True)
        for stream, array in part.scores.items()
    }


def _features(part: Part) -> Streams:
    return part.features


def _fit_svm(
    parts: Mapping[str, Part],
    groups: Sequence[Hashable],
    fusion_lambda: float | None,
    *,
    seen: Callable[[Part], Streams],
) -> Fitted:
    train, validation = parts["train"], parts["validation"]
    classes = _num_classes(validation.scores)
    svms = EarlyFusion.fit_each(seen(train), train.labels, num_classes=classes)
    decisions = np.stack([svm.decide(seen(validation)) for svm in svms])  # (C, V, N)
    right = decisions.argmax(axis=2) == validation.labels
    best = svms[_first_best(right)]
    apart = chosen_without(right, validation.labels, groups)
    if "all" in parts:
        again = parts["all"]
        (best,) = EarlyFusion.fit_each(
            seen(again), again.labels, num_classes=classes, grid=(best.c,)
        )
    return Fitted(
        fuse=lambda part: best.decide(seen(part)),
        validation=decisions[apart, np.arange(len(apart))],
        details={"c": best.c},
        rule=best.rule() if seen is _features else None,
    )


def _first_best(right: NDArray[np.bool_]) -> int:
    """Returns which of K candidates is right most often, the first of those that tie."""
    return int(right.sum(axis=1).argmax())


# What all of them share


def _sum_streams(scores: Streams, weights: FloatArray) -> FloatArray:
    """Returns Σ_s weights[y, s] · scores[s][x, y], (V, N); one row of weights may serve all."""
    fused = np.zeros(next(iter(scores.values())).shape)
    for stream, column in zip(scores.values(), weights.T, strict=True):
        fused += stream * column
    return fused


def _any_scores(parts: Mapping[str, Part]) -> Streams:
    """Returns the scores of a part that has some: of train, features alone may be kept."""
    return next(part.scores for part in parts.values() if part.scores)


def _num_classes(scores: Streams) -> int:
    classes: int = next(iter(scores.values())).shape[1]
    return classes


def _check_streams(streams: Streams, what: str, *, same_width: bool = True) -> None:
    if not streams:
        raise ValueError(f"fusion needs the {what} of at least one stream, but got none")
    for name, array in streams.items():
        if array.ndim != 2 or array.size == 0 or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"the {what} of stream {name!r} must be a float array of shape (V, "
                f"{'N' if same_width else 'D'}), not empty, but got {array.dtype} {array.shape}"
            )
        finite = np.isfinite(array)
        if not finite.all():
            video = int(np.argwhere(~finite)[0, 0])
            raise ValueError(
                f"the {what} of stream {name!r} must be finite, but "
                f"{np.count_nonzero(~finite)} are not, the first in row {video}"
            )
    shapes = {name: array.shape for name, array in streams.items()}
    if len({shape if same_width else shape[:1] for shape in shapes.values()}) > 1:
        raise ValueError(f"the streams' {what} must have the same shape, but got {shapes}")


def _check_labels(labels: IntArray, streams: Streams, *, classes: int) -> None:
    videos = len(next(iter(streams.values())))
    if labels.shape != (videos,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be {videos} integers, one a video, but got {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, but got {labels.min()}..{labels.max()}"
        )


FUSIONS: dict[str, Fusion] = {
    "spatial": _one_stream("spatial"),
    "temporal": _one_stream("temporal"),
    "average": _late(),
    "weighted": _late({"spatial": 1.0, "temporal": 1.5}),  # RGB : flow, as is usual in the field
    **{
        name: Fusion(fit=partial(_fit_svm, seen=seen), reads_train=True, fits_on_validation=True)
        for name, seen in (("early", _features), ("scores-svm", unit_scores))
    },
    **{
        f"awf-{constraint}": Fusion(
            fit=partial(_fit_adaptive, constraint=constraint),
            fits_on_validation=True,
            takes_lambda=True,
        )
        for constraint in CONSTRAINTS
    },
    "awf-train": Fusion(
        fit=_fit_adaptive_on_train,
        reads_train=True,
        fits_on_validation=True,
        takes_lambda=True,
    ),
}
"""Every fusion by the name that an arm gives it."""
