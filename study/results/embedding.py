"""What the networks' features look like: t-SNE of some classes, by stream and fused."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from study.results.drawing import COLOURS, cut, styled

__all__ = ["FUSED", "LEAST_VIDEOS", "classes_to_show", "embed", "embedding_plot", "fused_features"]

FUSED = "fused"
CLASSES_SHOWN = 15  # as in CSTM, Fig. 7
VIDEOS_OF_A_CLASS = 100  # more take minutes and lie upon each other
LEAST_VIDEOS = 10  # that are worth embedding
PERPLEXITY = 30.0


def classes_to_show(labels: Sequence[int]) -> tuple[list[int], np.ndarray]:
    """Returns the 15 most frequent classes, and which videos to show of them (ours).

    Args:
        labels: The class of each of V videos.

    Returns:
        The classes, the most frequent first and of equals the lower number; and the numbers of
        their videos, at most the first 100 of each.
    """
    frequency = Counter(labels)
    classes = sorted(frequency, key=lambda label: (-frequency[label], label))[:CLASSES_SHOWN]
    known = np.asarray(labels)
    videos = [np.flatnonzero(known == label)[:VIDEOS_OF_A_CLASS] for label in classes]
    return classes, np.sort(np.concatenate(videos))


def fused_features(features: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the streams' features, and where there are several all joined.

    Each stream's vectors have length 1 in what is joined, so that none outweighs another (ours).

    Args:
        features: (V, D) by stream; D may differ.
    """
    if len(features) < 2:
        return dict(features)
    units = [
        matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        for matrix in features.values()
    ]
    return {**features, FUSED: np.concatenate(units, axis=1)}


def embed(features: np.ndarray) -> np.ndarray:
    """Returns t-SNE of features in two dimensions (van der Maaten and Hinton, JMLR 2008).

    It starts from the principal components; the same features give the same embedding.

    Args:
        features: (V, D), V >= 10.

    Returns:
        (V, 2). Distances between clusters, and their sizes, mean nothing.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
    embedded: np.ndarray = tsne.fit_transform(np.asarray(features, np.float64))
    return embedded


@styled
def embedding_plot(
    embedded: Mapping[str, np.ndarray], labels: Sequence[int], names: Mapping[int, str], *, arm: str
) -> Figure:
    """Draws embedded videos by stream, each class in its colour and form (CSTM, Fig. 7).

    Args:
        embedded: (V, 2) by stream.
        labels: The class of each of the V videos.
        names: The classes' names, in the order of the legend.
        arm: What to call the network.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(3.4 * len(embedded), 4.8), layout="constrained")
    known = np.asarray(labels)
    panels = figure.subplots(1, len(embedded), squeeze=False)[0]
    for axes, (stream, points) in zip(panels, embedded.items(), strict=True):
        for number, (label, name) in enumerate(names.items()):
            chosen = points[known == label]
            axes.plot(
                *chosen.T,
                color=COLOURS[number % len(COLOURS)],
                marker="ox"[number // len(COLOURS) % 2],
                markersize=4,
                linestyle="",
                label=cut(name, 20),
            )
        axes.set(xticks=[], yticks=[])
        axes.set_title(stream, fontsize=9)
        axes.spines[:].set_visible(True)
    figure.suptitle(cut(arm, 60), fontsize=9)
    handles = panels[0].get_legend_handles_labels()
    columns = max(1, round(1.7 * len(embedded)))
    figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize=7)
    return figure
