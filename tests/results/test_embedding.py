"""The embedding of features: which videos, which features, and that neighbours stay neighbours."""

import numpy as np
import pytest
from sklearn.manifold import trustworthiness

from study.results.embedding import classes_to_show, embed, embedding_plot, fused_features
from tests.drawn import check_drawn


def clusters(classes: int, of_class: int, *, dim: int = 16) -> tuple[np.ndarray, list[int]]:
    rng = np.random.default_rng(classes)
    labels = np.repeat(np.arange(classes), of_class)
    centres = 10 * rng.standard_normal((classes, dim))
    return centres[labels] + rng.standard_normal((len(labels), dim)), labels.tolist()


def test_neighbours_stay_neighbours_and_the_embedding_repeats() -> None:
    features, labels = clusters(3, 12)
    points = embed(features)
    assert points.shape == (36, 2)
    assert trustworthiness(features, points) > 0.9
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + 1e9 * np.eye(36)
    assert [labels[i] for i in distance.argmin(1)] == labels
    np.testing.assert_array_equal(points, embed(features))


def test_ten_videos_can_be_embedded() -> None:
    assert np.isfinite(embed(clusters(2, 5)[0].astype(np.float32))).all()


def test_the_fifteen_most_frequent_classes_are_shown_with_some_of_their_videos() -> None:
    labels = [label for label in range(20) for _ in range(label + 1)] + [19] * 200
    np.random.default_rng(0).shuffle(labels)
    classes, videos = classes_to_show(labels)
    assert classes == list(range(19, 4, -1))
    shown = [labels[i] for i in videos]
    assert {label: shown.count(label) for label in classes} == {
        label: min(100, labels.count(label)) for label in classes
    }
    assert list(videos) == sorted(set(videos))


def test_streams_are_joined_at_equal_length_and_one_alone_is_not_fused() -> None:
    rng = np.random.default_rng(0)
    spatial, temporal = 100 * rng.random((4, 3)), rng.random((4, 5))
    fused = fused_features({"spatial": spatial, "temporal": temporal})["fused"]
    assert fused.shape == (4, 8)
    for row in range(4):
        assert fused[row, :3] == pytest.approx(spatial[row] / np.sqrt(sum(spatial[row] ** 2)))
        assert fused[row, 3:] == pytest.approx(temporal[row] / np.sqrt(sum(temporal[row] ** 2)))
    assert list(fused_features({"spatial": spatial})) == ["spatial"]


@pytest.mark.parametrize(("classes", "streams"), [(2, 1), (15, 3)])
def test_few_and_many_classes_can_be_read(classes: int, streams: int) -> None:
    points, labels = clusters(classes, 4, dim=2)
    names = {label: f"A class with a long name {label}" for label in range(classes)}
    embedded = {f"stream {i}": points for i in range(streams)}
    figure = embedding_plot(embedded, labels, names, arm="Two-stream")
    check_drawn(figure)
    assert len(figure.axes) == streams
    looks = {(line.get_color(), line.get_marker()) for line in figure.axes[0].lines}
    assert len(looks) == classes
