"""Fusion of two streams' predictions: late, early and adaptively weighted.

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

with Y_y the unit vector that picks class y. The paper solves eq. 5 "by linear programming" and
states no constraint. The objective is linear in W_y, so without one it is unbounded, and on the
simplex (w >= 0, Σ w = 1) its optimum is a *vertex*: the weights become a hard choice of one stream
for each class, the one with the largest gain P_y - λ M_y, and λ only moves which. That literal
reading is ``simplex`` here; ``floor``, ``l2`` and ``entropy`` are ours, for a soft choice.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.sparse import block_diag
from scipy.special import softmax
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

__all__ = [
    "CONSTRAINTS",
    "AdaptiveFusion",
    "Constraint",
    "EarlyFusion",
    "cross_fit",
    "late_fusion",
    "select_adaptive_fusion",
]

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
Constraint = Literal["simplex", "floor", "l2", "entropy"]

CONSTRAINTS: tuple[Constraint, ...] = ("simplex", "floor", "l2", "entropy")
LAMBDAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
C_GRID = (0.01, 0.1, 1.0, 10.0)


def late_fusion(
    scores: Mapping[str, ArrayLike], weights: Mapping[str, float] | None = None
) -> FloatArray:
    """The weighted mean of the streams' scores.

    Args:
        scores: (V, N) scores by stream.
        weights: A nonnegative weight for each stream, such as ``{"spatial": 1, "temporal": 1.5}``;
            divided by their sum. None is the plain average.

    Returns:
        (V, N) fused scores.

    Raises:
        ValueError: The scores' shapes differ or hold NaN, or the weights don't fit the streams.
    """
    arrays = _checked_streams(scores, "scores")
    if weights is None:
        weights = dict.fromkeys(arrays, 1.0)
    if set(weights) != set(arrays):
        raise ValueError(
            f"late fusion needs one weight for each of the streams {sorted(arrays)}, "
            f"but got weights for {sorted(weights)}"
        )
    values = np.array([weights[stream] for stream in arrays], dtype=np.float64)
    if not (np.isfinite(values).all() and (values >= 0).all() and values.sum() > 0):
        raise ValueError(
            f"late fusion's weights must be finite, nonnegative and not all zero, "
            f"but got {dict(weights)}"
        )
    return _sum_streams(arrays, values[None] / values.sum())


class AdaptiveFusion:
    """Adaptively weighted fusion: for each class its own weights over the streams (eqs. 4-9).

    With the gain g_y = P_y - λ M_y of each stream taken alone (a vector of S numbers), the weights
    of class y maximise w·g_y under one of these constraints. All but the first are ours.

    - ``simplex``: w >= 0, Σ w = 1. The literal linear program, solved by HiGHS; its optimum is the
      vertex of the stream with the largest gain.
    - ``floor``: as ``simplex`` with w >= ``floor``, so that no stream is silenced.
    - ``l2``: w >= 0, ‖w‖ <= 1. The optimum is max(g, 0) / ‖max(g, 0)‖. Where no stream has a
      positive gain it would be w = 0 and the class could never be predicted; then ‖w‖ = 1 is asked
      for instead, and the largest gain takes it all.
    - ``entropy``: w >= 0, Σ w = 1, and ``temperature`` times the entropy of w is added to the
      objective. The optimum is softmax(g / temperature).

    Fit it on videos that the streams were *not* trained on: scores on training videos are near one
    for every stream and say nothing of which to trust. A class without a video there has no P_y
    and gets equal weights (ours).

    Attributes:
        streams: The streams' names in the order of the weights' columns, once fitted.
        weights: (N, S) the fitted weights.
    """

    streams: tuple[str, ...]
    weights: FloatArray

    def __init__(
        self,
        constraint: Constraint = "simplex",
        fusion_lambda: float = 1.0,
        normalisation: Literal["mean", "sum"] = "mean",
        *,
        floor: float = 0.2,
        temperature: float = 0.1,
    ) -> None:
        """Takes the form of the objective and of the constraint.

        Args:
            constraint: One of ``simplex``, ``floor``, ``l2``, ``entropy``.
            fusion_lambda: λ >= 0 of eq. 5.
            normalisation: ``sum`` as eqs. 6 and 7 print it, or ``mean``: P_y and M_y divided by
                their numbers of videos (ours; the videos of other classes outnumber those of y by
                about N - 1 to one, which with sums is a factor on λ).
            floor: Least weight of a stream under ``floor``; at most 1 / S.
            temperature: Weight of the entropy under ``entropy``, in the unit of the gain: with
                ``mean`` a score in 0..1, with ``sum`` the sum of a class's scores.

        Raises:
            ValueError: A value is out of its range.
        """
        if constraint not in CONSTRAINTS:
            raise ValueError(f"the constraint must be one of {CONSTRAINTS}, but got {constraint!r}")
        if normalisation not in ("mean", "sum"):
            raise ValueError(f"normalisation must be 'mean' or 'sum', but got {normalisation!r}")
        if not (np.isfinite(fusion_lambda) and fusion_lambda >= 0):
            raise ValueError(f"fusion_lambda must be finite and >= 0, but got {fusion_lambda}")
        if not 0 <= floor <= 1:
            raise ValueError(f"floor must lie in 0..1, but got {floor}")
        if not (np.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature must be finite and > 0, but got {temperature}")
        self.constraint: Constraint = constraint
        self.fusion_lambda = fusion_lambda
        self.normalisation = normalisation
        self.floor = floor
        self.temperature = temperature

    def fit(self, scores: Mapping[str, ArrayLike], labels: ArrayLike) -> "AdaptiveFusion":
        """Fits the weights of every class.

        Args:
            scores: (V, N) softmax scores by stream.
            labels: (V,) classes in 0..N-1.

        Returns:
            This fusion.

        Raises:
            ValueError: Shapes differ, a score is not finite, or a label is out of range.
        """
        arrays = _checked_streams(scores, "scores")
        return self._solve(_Evidence.of(arrays, _checked_labels(labels, arrays)))

    def fuse(self, scores: Mapping[str, ArrayLike]) -> FloatArray:
        """The fused scores W_y S_t Y_y of eq. 9, (V, N); the prediction is their argmax.

        Raises:
            ValueError: Not fitted, or other streams or classes than those of the fit.
        """
        if not hasattr(self, "weights"):
            raise ValueError("this fusion is not fitted; call fit(scores, labels) first")
        arrays = _checked_streams(scores, "scores")
        if set(arrays) != set(self.streams) or _num_classes(arrays) != len(self.weights):
            raise ValueError(
                f"this fusion was fitted on the streams {sorted(self.streams)} with "
                f"{len(self.weights)} classes, but got {sorted(arrays)} with "
                f"{_num_classes(arrays)} classes"
            )
        return _sum_streams({stream: arrays[stream] for stream in self.streams}, self.weights)

    def _solve(self, evidence: "_Evidence") -> "AdaptiveFusion":
        streams = len(evidence.streams)
        if self.constraint == "floor" and self.floor * streams > 1:
            raise ValueError(
                f"floor must be at most 1 / {streams} with {streams} streams, but got {self.floor}"
            )
        gains = evidence.gains(self.fusion_lambda, self.normalisation)
        if self.constraint == "l2":
            weights = _solve_unit_ball(gains)
        elif self.constraint == "entropy":
            weights = softmax(gains / self.temperature, axis=1)
        else:
            weights = _solve_linear_program(gains, self.floor if self.constraint == "floor" else 0)
        equal = streams**-0.5 if self.constraint == "l2" else 1 / streams
        weights[evidence.counts == 0] = equal
        self.streams, self.weights = evidence.streams, weights
        return self


@dataclass(frozen=True, kw_only=True, slots=True)
class _Evidence:
    """P_y and M_y of each stream taken alone: all that AWF's objective needs to know.

    Attributes:
        streams: The names of the S streams.
        positives: (N, S) scores for y summed over the videos of class y.
        negatives: (N, S) scores for y summed over all other videos.
        counts: (N,) videos of each class.
    """

    streams: tuple[str, ...]
    positives: FloatArray
    negatives: FloatArray
    counts: IntArray

    @classmethod
    def of(cls, scores: Mapping[str, FloatArray], labels: IntArray) -> "_Evidence":
        classes = _num_classes(scores)
        videos = np.arange(len(labels))
        positives = np.zeros((classes, len(scores)))
        for column, array in zip(positives.T, scores.values(), strict=True):
            np.add.at(column, labels, array[videos, labels])
        totals = np.stack([s.sum(axis=0, dtype=np.float64) for s in scores.values()], axis=1)
        return cls(
            streams=tuple(scores),
            positives=positives,
            negatives=totals - positives,
            counts=np.bincount(labels, minlength=classes),
        )

    def gains(self, fusion_lambda: float, normalisation: str) -> FloatArray:
        """(N, S): the objective of eq. 5 for all weight on one stream."""
        positives, negatives = self.positives, self.negatives
        if normalisation == "mean":
            others = self.counts.sum() - self.counts
            positives = positives / np.maximum(self.counts, 1)[:, None]
            negatives = negatives / np.maximum(others, 1)[:, None]
        return positives - fusion_lambda * negatives


def _solve_linear_program(gains: FloatArray, floor: float) -> FloatArray:
    """max Σ_y w_y·g_y, Σ_s w_ys = 1, w >= floor: one linear program with a block for each class.

    Adding a constant to a class's gains, or scaling them, leaves its optimum where it is; both are
    used to bring small differences clear of the solver's tolerances.
    """
    classes, streams = gains.shape
    centred = gains - gains.mean(axis=1, keepdims=True)
    scale = np.abs(centred).max(axis=1, keepdims=True)
    objective = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
    result = linprog(
        -objective.ravel(),
        A_eq=block_diag([np.ones((1, streams))] * classes, format="csr"),
        b_eq=np.ones(classes),
        bounds=(floor, 1),
        method="highs",
    )
    if not result.success:
        raise RuntimeError(f"the linear program of adaptive fusion failed: {result.message}")
    weights: FloatArray = result.x.reshape(classes, streams)
    return weights


def _solve_unit_ball(gains: FloatArray) -> FloatArray:
    """max w·g, w >= 0, ‖w‖ <= 1 (= 1 where no gain is positive), in closed form."""
    direction = np.maximum(gains, 0)
    hopeless = (direction == 0).all(axis=1)
    direction[hopeless] = gains[hopeless] == gains[hopeless].max(axis=1, keepdims=True)
    unit: FloatArray = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    return unit


def cross_fit(
    make_fusion: Callable[[], AdaptiveFusion],
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: Sequence[Hashable],
    folds: int = 5,
) -> FloatArray:
    """Fused scores of every video under weights that were fitted without its group.

    Args:
        make_fusion: Makes an unfitted fusion, once a fold.
        scores: (V, N) scores by stream.
        labels: (V,) classes.
        groups: (V,) source video of each video; no group is in a fit and judged by it.
        folds: Number of folds; fewer when there are fewer groups.

    Returns:
        (V, N) fused scores.

    Raises:
        ValueError: Shapes or labels don't fit, fewer than two folds, or fewer than two groups.
    """
    arrays = _checked_streams(scores, "scores")
    classes = _checked_labels(labels, arrays)
    fused = np.empty((len(classes), _num_classes(arrays)))
    for fitted, held_out in _group_folds(classes, groups, folds):
        fusion = make_fusion().fit(_take(arrays, fitted), classes[fitted])
        fused[held_out] = fusion.fuse(_take(arrays, held_out))
    return fused


def select_adaptive_fusion(
    scores: Mapping[str, ArrayLike],
    labels: ArrayLike,
    groups: Sequence[Hashable],
    constraints: Sequence[Constraint] = CONSTRAINTS,
    lambdas: Sequence[float] = LAMBDAS,
    *,
    normalisation: Literal["mean", "sum"] = "mean",
    folds: int = 5,
) -> tuple[AdaptiveFusion, dict[str, Any], float]:
    """Chooses AWF's constraint and λ by cross-fitting inside the part that it is fitted on.

    Args:
        scores: (V, N) scores by stream, of videos that the streams were not trained on.
        labels: (V,) classes.
        groups: (V,) source video of each video.
        constraints: The constraints to choose from.
        lambdas: The values of λ to choose from.
        normalisation: As for `AdaptiveFusion`.
        folds: As for `cross_fit`.

    Returns:
        The fusion of the chosen settings fitted on all videos; those settings by name
        (``constraint``, ``fusion_lambda``); and their cross-fitted top-1 in 0..1. Of settings
        that tie, the first in the order given wins.

    Raises:
        ValueError: As `cross_fit`, or nothing to choose from.
    """
    arrays = _checked_streams(scores, "scores")
    classes = _checked_labels(labels, arrays)
    candidates = [
        AdaptiveFusion(constraint, fusion_lambda, normalisation)
        for constraint in constraints
        for fusion_lambda in lambdas
    ]
    if not candidates:
        raise ValueError(
            f"choosing a fusion needs at least one constraint and one λ, "
            f"but got constraints {list(constraints)} and lambdas {list(lambdas)}"
        )
    correct = np.zeros(len(candidates), dtype=np.int64)
    for fitted, held_out in _group_folds(classes, groups, folds):
        evidence = _Evidence.of(_take(arrays, fitted), classes[fitted])
        judged = _take(arrays, held_out)
        for i, candidate in enumerate(candidates):
            fused = _sum_streams(judged, candidate._solve(evidence).weights)
            correct[i] += np.count_nonzero(fused.argmax(axis=1) == classes[held_out])
    best = candidates[int(correct.argmax())]
    settings = {"constraint": best.constraint, "fusion_lambda": best.fusion_lambda}
    top1 = float(correct.max() / len(classes))
    return best._solve(_Evidence.of(arrays, classes)), settings, top1


class EarlyFusion:
    """Early fusion: a linear SVM on the concatenated features of the streams (STILT Table 5).

    Features are standardised by the training videos' mean and deviation and divided by the root
    of their number, so that a video's vector has a length near one and a value of C means the same
    for any backbone. The SVM is scikit-learn's `LinearSVC` (one against the rest, squared hinge),
    its C the one of ``c_grid`` with the best top-1 on the validation videos, the smallest of those
    that tie. All this is ours; the paper says no more than "SVM".

    Attributes:
        c: The chosen C, once fitted.
    """

    c: float

    def __init__(self, c_grid: Sequence[float] = C_GRID) -> None:
        """Takes the values of C to choose from.

        Raises:
            ValueError: The grid is empty or holds a value that is not positive.
        """
        if not c_grid or not all(np.isfinite(c) and c > 0 for c in c_grid):
            raise ValueError(f"c_grid must hold positive numbers, but got {list(c_grid)}")
        self.c_grid = tuple(sorted(c_grid))

    def fit(
        self,
        features: Mapping[str, ArrayLike],
        labels: ArrayLike,
        validation_features: Mapping[str, ArrayLike],
        validation_labels: ArrayLike,
        *,
        num_classes: int | None = None,
    ) -> "EarlyFusion":
        """Trains one SVM for each C and keeps the best.

        Args:
            features: (V, D_s) features of the training videos by stream.
            labels: (V,) their classes.
            validation_features: (U, D_s) features of the validation videos.
            validation_labels: (U,) their classes.
            num_classes: N; None takes one more than the largest label.

        Returns:
            This fusion.

        Raises:
            ValueError: Shapes, streams or labels don't fit.
        """
        arrays = _checked_streams(features, "features", same_width=False)
        self._widths = {stream: array.shape[1] for stream, array in arrays.items()}
        highest = int(max(np.max(labels, initial=-1), np.max(validation_labels, initial=-1)))
        self._num_classes = highest + 1 if num_classes is None else num_classes
        y = _checked_labels(labels, arrays, self._num_classes)
        x = self._concatenated(features)
        self._scaler = StandardScaler().fit(x)
        x = self._standardised(x)
        held_out = self._concatenated(validation_features)
        held_out_y = _checked_labels(validation_labels, {"validation": held_out}, self._num_classes)
        held_out = self._standardised(held_out)

        best = -1.0
        self._seen = np.unique(y)
        self._svm: LinearSVC | None = None
        for c in self.c_grid:
            svm = None
            if len(self._seen) > 1:
                svm = LinearSVC(C=c, dual="auto", tol=1e-3, random_state=0).fit(x, y)
            top1 = float(np.mean(self._decisions(svm, held_out).argmax(axis=1) == held_out_y))
            if top1 > best:
                best, self.c, self._svm = top1, c, svm
        return self

    def decide(self, features: Mapping[str, ArrayLike]) -> FloatArray:
        """Decision values (V, N), larger for a likelier class.

        A class without a training video has no decision value; it gets one less than the row's
        smallest, so that it is last in every ranking.

        Raises:
            ValueError: Not fitted, or other streams or sizes than those of the fit.
        """
        if not hasattr(self, "_svm"):
            raise ValueError("this fusion is not fitted; call fit(...) first")
        return self._decisions(self._svm, self._standardised(self._concatenated(features)))

    def _standardised(self, x: FloatArray) -> FloatArray:
        standard: FloatArray = self._scaler.transform(x) / np.sqrt(x.shape[1])
        return standard

    def _decisions(self, svm: LinearSVC | None, x: FloatArray) -> FloatArray:
        if svm is None:  # one class only: nothing to separate
            values = np.zeros((len(x), 1))
        else:
            values = svm.decision_function(x)
            if values.ndim == 1:  # two classes: the first one's margin is the negated second's
                values = np.stack([-values, values], axis=1)
        decisions = np.repeat(values.min(axis=1, keepdims=True) - 1, self._num_classes, axis=1)
        decisions[:, self._seen] = values
        return decisions

    def _concatenated(self, features: Mapping[str, ArrayLike]) -> FloatArray:
        arrays = _checked_streams(features, "features", same_width=False)
        widths = {stream: array.shape[1] for stream, array in arrays.items()}
        if widths != self._widths:
            raise ValueError(
                f"early fusion was fitted on features of sizes {self._widths}, but got {widths}"
            )
        return np.concatenate([arrays[stream] for stream in self._widths], axis=1)


def _sum_streams(scores: Mapping[str, FloatArray], weights: FloatArray) -> FloatArray:
    """Σ_s weights[y, s] · scores[s][x, y], (V, N); weights (N, S), or (1, S) for all classes."""
    fused = np.zeros(next(iter(scores.values())).shape)
    for stream, column in zip(scores.values(), weights.T, strict=True):
        fused += stream * column
    return fused


def _group_folds(
    labels: IntArray, groups: Sequence[Hashable], folds: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """Pairs (fitted, held out) of video indices; no group is on both sides.

    Each group goes, largest of a class first, to the fold that holds the fewest videos of the
    group's commonest class, then the fewest videos: classes are spread over the folds as far as
    their groups allow. It depends on the videos' names and labels, not on their order.
    """
    if len(groups) != len(labels):
        raise ValueError(
            f"groups must name one source video for each of the {len(labels)} videos, "
            f"but got {len(groups)}"
        )
    if folds < 2:
        raise ValueError(f"cross-fitting needs at least 2 folds, but got {folds}")
    members: dict[Hashable, list[int]] = {}
    for video, group in enumerate(groups):
        members.setdefault(group, []).append(video)
    if len(members) < 2:
        raise ValueError(
            f"cross-fitting needs videos of at least 2 groups, but all {len(labels)} are of "
            f"{len(members)}; use fixed settings instead"
        )
    folds = min(folds, len(members))
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


def _take(scores: Mapping[str, FloatArray], videos: IntArray) -> dict[str, FloatArray]:
    return {stream: array[videos] for stream, array in scores.items()}


def _num_classes(scores: Mapping[str, FloatArray]) -> int:
    return next(iter(scores.values())).shape[1]


def _checked_streams(
    streams: Mapping[str, ArrayLike], what: str, *, same_width: bool = True
) -> dict[str, FloatArray]:
    if not streams:
        raise ValueError(f"fusion needs the {what} of at least one stream, but got none")
    arrays = {name: np.asarray(values) for name, values in streams.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"the {what} of stream {name!r} must be a float array of shape (V, "
                f"{'N' if same_width else 'D'}), but got {array.dtype} {array.shape}"
            )
        if array.size == 0:
            raise ValueError(f"the {what} of stream {name!r} are empty: {array.shape}")
        finite = np.isfinite(array)
        if not finite.all():
            video = int(np.argwhere(~finite)[0, 0])
            raise ValueError(
                f"the {what} of stream {name!r} must be finite, but "
                f"{np.count_nonzero(~finite)} are not, the first in row {video}"
            )
    shapes = {name: array.shape for name, array in arrays.items()}
    if len({shape if same_width else shape[:1] for shape in shapes.values()}) > 1:
        raise ValueError(f"the streams' {what} must have the same shape, but got {shapes}")
    return arrays


def _checked_labels(
    labels: ArrayLike, arrays: Mapping[str, FloatArray], num_classes: int | None = None
) -> IntArray:
    videos, width = next(iter(arrays.values())).shape
    classes = width if num_classes is None else num_classes
    array = np.asarray(labels)
    if array.shape != (videos,) or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(
            f"labels must be {videos} integers, one a video, but got {array.dtype} {array.shape}"
        )
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, but got {array.min()}..{array.max()}"
        )
    return array
