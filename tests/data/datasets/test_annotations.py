"""Classes of mirrored videos."""

from study.data.datasets.annotations import mirror_classes


def test_mirrored_names_swap_their_labels() -> None:
    classes = (
        "Pushing something from left to right",
        "Pulling it right out",
        "Swiping Left",
        "Pushing something from right to left",
        "Turning Hand Clockwise",
        "Swiping Right",
        "Putting something upright",
        "Turning Hand Counterclockwise",
    )
    assert mirror_classes(classes) == (3, 1, 5, 0, 7, 2, 6, 4)
