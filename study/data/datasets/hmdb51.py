"""HMDB51 (Kuehne et al., "HMDB: A large video database for human motion recognition", 2011)."""

from pathlib import Path

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.lists import bad_line, check_inside, make_split, read_lines
from study.data.datasets.reader import register_dataset

__all__ = ["annotate"]


@register_dataset("hmdb51", title="HMDB51", needs=("splits",))
def annotate(splits: Path) -> Annotations:
    """Reads the three splits: `<class>_test_split<1|2|3>.txt`, lines of file name and flag.

    Flag 1 is train, 2 is test, 0 is unused in that split. Clips cut from one film share what their
    names have before `_<class>_`: they are one group, also across classes.
    """
    files = {path.name: path for path in sorted(splits.glob("*_test_split[123].txt"))}
    classes = tuple(sorted({name.rpartition("_test_split")[0] for name in files}))
    if not classes:
        raise FileNotFoundError(
            f"no HMDB51 split files in {splits}: expected <class>_test_split1.txt, "
            "…_split2.txt and …_split3.txt for each class"
        )
    known: dict[str, Video] = {}
    read: dict[str, Split] = {}
    for name in ("1", "2", "3"):
        parts: dict[str, list[Video]] = {"0": [], "1": [], "2": []}
        for label, class_name in enumerate(classes):
            for line in read_lines(splits / f"{class_name}_test_split{name}.txt"):
                flag, video = _parse_video(*line, class_name, label, known)
                parts[flag].append(video)
        read[name] = make_split(name, parts["1"], parts["2"], splits)
    return Annotations(
        dataset="hmdb51",
        classes=classes,
        splits=read,
        flip_classes=tuple(range(len(classes))),
    )


def _parse_video(
    file: Path, number: int, line: str, class_name: str, label: int, known: dict[str, Video]
) -> tuple[str, Video]:
    clip, _, flag = line.rpartition(" ")
    clip = clip.rstrip()
    source, found, _ = clip.rpartition(f"_{class_name}_")
    if flag not in ("0", "1", "2") or not found:
        raise bad_line(
            file,
            number,
            line,
            f'"<source>_{class_name}_<properties>.avi <flag>" with flag 0 (unused), 1 (train) '
            "or 2 (test)",
        )
    check_inside(clip, file, number)
    path = f"{class_name}/{clip}"
    if path not in known:
        known[path] = Video(
            name=path.rpartition(".")[0] or path, path=path, label=label, group=source
        )
    return flag, known[path]
