"""A user's own dataset as its lists have it."""

import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from study.data.datasets.annotations import Split, Video
from study.data.datasets.groups import group_of, leave_one_group_out
from study.data.datasets.list_files import ListFiles, Row, read_list
from study.data.datasets.lists import bad_line, check_classes, read_lines
from study.data.datasets.validation import carve_validation
from study.data.video.files import VIDEO_SUFFIXES, resolve_video

__all__ = ["TEST_FRACTION", "read_own_lists"]

TEST_FRACTION = 0.3  # of each class, where nothing says what to test on
SHOWN = 3  # examples of each kind of finding

_BETWEEN_LETTERS = re.compile(r"(?<=[^\W\d_])[\s_-]+(?=[^\W\d_])")


def read_own_lists(
    videos: Path, lists: ListFiles, pattern: re.Pattern[str] | None, report: Callable[[str], None]
) -> tuple[tuple[str, ...], dict[str, Split]]:
    """Reads the classes and splits of a user's own dataset from its lists.

    What would make a wrong study is refused: a video in two parts of a split or under two labels, a
    class in two spellings, a path that leads out of the folder. What is absent or listed twice is
    reported and passed over, or refused where the lists are strict: videos and classes without a
    file, repeated lines, groups that two parts of a split share. Absent videos stay listed.

    Args:
        videos: The folder that paths start from.
        lists: The lists.
        pattern: Finds a video's group in its path without suffix where the lists have no groups;
            lists without parts are then split by leaving one group out.
        report: Receives what is passed over, a sentence for each kind.

    Returns:
        Class names in the order of their labels, and the splits by name.

    Raises:
        FileNotFoundError: If a list is missing.
        ValueError: If a list can't be understood, or what it says is refused.
    """
    rows = [row for file, part in lists.files for row in read_list(file, part, report)]
    _check_parts(rows)
    if pattern is not None and any(row.group for row in rows):
        raise ValueError('the lists have a column "group", so give no pattern of groups')
    findings = _Findings()
    classes, labels = _classes(rows, lists.classes, findings)
    listed = _Videos(videos, classes, pattern, findings)
    split_rows: defaultdict[str, list[tuple[Row, Video]]] = defaultdict(list)
    for row in rows:
        if (video := listed.of(row, labels[row.label])) is not None:
            split_rows[row.split].append((row, video))
    findings.refuse()
    divided = {name: _parts(name, own, findings) for name, own in split_rows.items()}
    listed.look_for_files()
    findings.refuse(strict=lists.strict)
    for sentence in findings.passed_over():
        report(sentence)
    if rows[0].part is not None:
        return classes, {name: _split(name, parts) for name, parts in divided.items()}
    everything = list(divided["1"][None].values())
    if pattern is not None:
        return classes, leave_one_group_out(everything, pattern)
    train, test = carve_validation(everything, fraction=TEST_FRACTION, seed=0)
    return classes, {"1": Split(name="1", train=train, test=test)}


@dataclass
class _Findings:
    """What the lists have wrong, and what they have that is absent; examples by kind."""

    wrong: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, list[str]] = field(default_factory=dict)

    def refuse(self, *, strict: bool = False) -> None:
        """Raises a `ValueError` of all that is refused, if there is any."""
        found = {**self.wrong, **self.absent} if strict else self.wrong
        if found:
            raise ValueError("; ".join(_sentences(found)))

    def passed_over(self) -> Iterable[str]:
        """Yields a sentence for each kind of what isn't refused."""
        return _sentences(self.absent)


def _sentences(found: Mapping[str, Sequence[str]]) -> Iterable[str]:
    for kind, examples in found.items():
        more = ", …" if len(examples) > SHOWN else ""
        yield f"{len(examples)} {kind}: {', '.join(examples[:SHOWN])}{more}"


def _at(row: Row) -> str:
    return f"{row.path} ({row.file.name}, line {row.line})"


def _check_parts(rows: Sequence[Row]) -> None:
    """Refuses lists of which some say a part and others don't."""
    without = next((row.file for row in rows if row.part is None), None)
    if without is not None and len({row.file for row in rows}) > 1:
        raise ValueError(
            f"which part {without} lists isn't said: give train={without} or the like, name it "
            'after its part (train, val, test), or add a column "part"'
        )


def _classes(
    rows: Sequence[Row], file: Path | None, findings: _Findings
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Returns the class names, and for each label as it is listed its index."""
    texts = list(dict.fromkeys(row.label for row in rows))
    numbered = all(text.isdecimal() for text in texts)
    names = [] if file is None else [text for _, _, text in read_lines(file)]
    if twice := _spellings([*names, *([] if numbered else texts)]):
        findings.wrong["classes are written in several ways"] = twice
        findings.refuse()
    if file is None and numbered:
        numbers = sorted({int(text) for text in texts})
        return tuple(map(str, numbers)), {text: numbers.index(int(text)) for text in texts}
    classes = check_classes(names if file else sorted(texts), file or rows[0].file)
    known = {str(label) if numbered else name: label for label, name in enumerate(classes)}
    labels = {text: known.get(str(int(text)) if numbered else text, -1) for text in texts}
    for row in rows:
        if labels[row.label] < 0:
            allowed = f"a number of 0 to {len(classes) - 1}" if numbered else "a class"
            raise bad_line(row.file, row.line, row.label, f"{allowed} of {file}")
    return classes, labels


def _spellings(names: Iterable[str]) -> list[str]:
    """Returns the names that differ in case, blanks, underscores and hyphens alone."""
    alike: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for name in names:
        # Between digits a separator matters: "step 1-1" is not "step 11".
        plain = re.sub(r"[\s_-]+", "_", _BETWEEN_LETTERS.sub("", name)).casefold()
        alike[plain][name] = None
    return [" and ".join(f'"{one}"' for one in ways) for ways in alike.values() if len(ways) > 1]


class _Videos:
    """The listed videos, each once, by their paths below the folder."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        pattern: re.Pattern[str] | None,
        findings: _Findings,
    ) -> None:
        self._folder = folder
        self._roots = (folder.absolute(), folder.resolve())
        self._classes = classes
        self._pattern = pattern
        self._findings = findings
        self._by_path: dict[str, Video] = {}
        self._by_name: dict[str, Video] = {}

    def of(self, row: Row, label: int) -> Video | None:
        """Returns a line's video; None where that is wrong, which is noted."""
        wrong = self._findings.wrong
        path = self._inside(row.path)
        if path is None:
            wrong.setdefault(f"paths lead out of {self._folder}", []).append(_at(row))
            return None
        has_suffix = PurePosixPath(path).suffix.lower() in VIDEO_SUFFIXES
        stem = str(PurePosixPath(path).with_suffix("")) if has_suffix else path
        class_name = self._classes[label]
        name = stem if stem.startswith(f"{class_name}/") else f"{class_name}/{stem}"
        group = row.group or name
        if self._pattern is not None:
            group = group_of(stem, self._pattern, _at(row))
        made = Video(name=name, path=path, label=label, group=group)
        video = self._by_path.setdefault(path, made)
        if video.label != label:
            wrong.setdefault("videos have two labels", []).append(_at(row))
        elif video != made:
            wrong.setdefault("videos are in two groups", []).append(_at(row))
        elif self._by_name.setdefault(name, video) is not video:
            other = self._by_name[name].path
            wrong.setdefault("videos have one name", []).append(f"{other} and {_at(row)}")
        return video

    def _inside(self, listed: str) -> str | None:
        """Returns a listed path as one below the folder; None where it leads out of it."""
        path = posixpath.normpath(listed.replace("\\", "/"))
        for root in self._roots if path.startswith("/") else ():
            if Path(path).is_relative_to(root):
                path = str(Path(path).relative_to(root))
        leads_out = path in (".", "..") or path.startswith(("/", "../")) or path[1:2] == ":"
        return None if leads_out else path

    def look_for_files(self) -> None:
        """Notes videos and classes that have no file, and videos that have the same one."""
        of_file: dict[Path, Video] = {}
        absent = []
        for path, video in self._by_path.items():
            file = resolve_video(self._folder, path)
            if file is None:
                absent.append(path)
            elif (other := of_file.setdefault(file, video)) is not video:
                found = f"{other.path} and {path}"
                self._findings.wrong.setdefault("videos are one file", []).append(found)
        if absent:
            self._findings.absent[f"videos are not in {self._folder}"] = absent
        there = {video.label for video in of_file.values()}
        without = [name for label, name in enumerate(self._classes) if label not in there]
        if without:
            self._findings.absent["classes have no video there"] = without


def _parts(
    split: str, listed: Sequence[tuple[Row, Video]], findings: _Findings
) -> dict[str | None, dict[str, Video]]:
    """Returns a split's videos by part and path."""
    parts: defaultdict[str | None, dict[str, Video]] = defaultdict(dict)
    part_of: dict[str, str | None] = {}
    parts_of_group: defaultdict[str, set[str | None]] = defaultdict(set)
    for row, video in listed:
        first = part_of.setdefault(video.path, row.part)
        if first != row.part:
            both = f"{_at(row)}: {first} and {row.part}"
            findings.wrong.setdefault(f"videos are in two parts of split {split}", []).append(both)
        elif video.path in parts[row.part]:
            findings.absent.setdefault("lines list a video again", []).append(_at(row))
        parts[row.part][video.path] = video
        if video.group != video.name:
            parts_of_group[video.group].add(row.part)
    if shared := [group for group, of in parts_of_group.items() if len(of) > 1]:
        findings.absent[f"groups are in several parts of split {split}"] = shared
    return dict(parts)


def _split(name: str, parts: Mapping[str | None, Mapping[str, Video]]) -> Split:
    if missing := [part for part in ("train", "test") if part not in parts]:
        remedy = "give " + " and ".join(f"{part}=FILE" for part in missing)
        if missing == ["test"] and "validation" in parts:
            remedy = (
                "give test=FILE; where results are reported on the list named val, that is the "
                "test part: give it as test=FILE, and videos to validate on are carved out of train"
            )
        raise ValueError(f"split {name} has no {' and no '.join(missing)} videos: {remedy}")
    return Split(name=name, **{str(part): tuple(own.values()) for part, own in parts.items()})
