"""What the tests of several datasets ask of annotations."""

from pathlib import Path

from study.data.datasets.annotations import Annotations, Video


def count(annotations: Annotations) -> dict[str, tuple[int, int]]:
    return {name: (len(s.train), len(s.test)) for name, s in annotations.splits.items()}


def by_name(annotations: Annotations) -> dict[str, Video]:
    return {v.name: v for s in annotations.splits.values() for v in (*s.train, *s.test)}


def write_files(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def check_numbered(annotations: Annotations, *, counts: tuple[int, int], classes: int) -> None:
    """Holds of datasets of numbered clips, each filmed by itself."""
    assert count(annotations) == {"1": counts}
    assert len(annotations.classes) == classes
    train, test = annotations.splits["1"].train, annotations.splits["1"].test
    for part in (train, test):
        assert {v.label for v in part} == set(range(classes))
    assert all(v.path == v.group == v.name.rpartition("/")[2] for v in test)


def swapped_classes(annotations: Annotations) -> set[frozenset[str]]:
    """The pairs of classes that a mirror turns into each other."""
    return {
        frozenset((annotations.classes[a], annotations.classes[b]))
        for a, b in enumerate(annotations.flip_classes)
        if a != b
    }


def check_clips_are_listed(annotations: Annotations, folder: Path) -> None:
    """The clips in a folder are in the lists, under the paths that they have."""
    clips = {str(path.relative_to(folder)) for path in folder.glob("*/*.avi")}
    assert clips
    assert clips <= {video.path for video in by_name(annotations).values()}
