import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from study.scores import confusion_matrix, mean_class_accuracy, top_k_accuracy


def _random_scores(videos: int = 200, classes: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes - 1, videos)  # the last class has no video
    scores = rng.random((videos, classes)) + 0.3 * np.eye(classes)[labels]
    return scores, labels


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_is_scikit_learns_where_nothing_ties(k: int) -> None:
    scores, labels = _random_scores()
    expected = top_k_accuracy_score(labels, scores, k=k, labels=range(7))
    assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_of_equal_scores_the_class_of_lower_index_is_higher() -> None:
    def ranking(row: np.ndarray) -> list[int]:
        return sorted(range(6), key=lambda c: (-row[c], c))

    rng = np.random.default_rng(0)
    scores = rng.integers(0, 3, (300, 6)) / 2
    labels = rng.integers(0, 6, 300)
    for k in range(1, 8):
        ranked = [ranking(row)[:k] for row in scores]
        expected = np.mean([label in best for label, best in zip(labels, ranked, strict=True)])
        assert top_k_accuracy(scores, labels, k) == pytest.approx(expected)


def test_mean_class_accuracy_is_scikit_learns_balanced_accuracy() -> None:
    scores, labels = _random_scores()
    scores[:, 6] = 0  # scikit-learn warns of predictions of a class that doesn't occur
    expected = balanced_accuracy_score(labels, scores.argmax(1))
    assert mean_class_accuracy(scores, labels) == pytest.approx(expected)


def test_the_confusion_matrix_is_scikit_learns() -> None:
    scores, labels = _random_scores()
    expected = sklearn_confusion_matrix(labels, scores.argmax(1), labels=range(7))
    assert (confusion_matrix(scores, labels) == expected).all()


@pytest.mark.parametrize(
    ("scores", "labels", "k", "message"),
    [
        (np.zeros((2, 3)), np.array([0, 3]), 1, r"labels must be in 0\.\.2, got 0\.\.3"),
        (np.zeros((2, 3)), np.array([0]), 1, r"got shapes \(2, 3\) and \(1,\)"),
        (np.zeros((0, 3)), np.zeros(0, int), 1, "at least one video"),
        (np.array([[0, np.nan]]), np.array([0]), 1, "must be finite, but those of 1 of 1"),
        (np.zeros((2, 3)), np.array([0, 1]), 0, "k of at least 1, got 0"),
    ],
)
def test_what_can_not_be_measured_is_refused(
    scores: np.ndarray, labels: np.ndarray, k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_accuracy(scores, labels, k)
