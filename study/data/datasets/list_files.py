"""Files that list a user's own videos, as the field's tools write them.

- A CSV whose header has ``video`` and ``label``, and perhaps ``part`` (train, validation or test),
  ``split`` and ``group``.
- The lists of mmaction2, without a header: ``path label``, or ``path frames label`` for folders of
  frames.
- The lists of SlowFast, without a header: ``path label`` or ``path,label``.

Lists without a header give classes as numbers. A file without a column ``part`` is of one part,
which is given, or which its name tells as those of both tools do: train, val or test.
"""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from study.data.datasets.lists import bad_line, read_lines

__all__ = ["ListFiles", "Row", "read_list"]

PARTS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
COLUMNS = ("video", "label", "part", "split", "group")
_PART_IN_NAME = re.compile(r"(?<![a-z])(train|val|validation|test)(?:ing|list)?(?![a-z])")
_WITHOUT_HEADER = (
    re.compile(r"(?P<path>.+?)\s*,\s*(?P<label>\d+)"),
    re.compile(r"(?P<path>.+?)\s+\d+\s+(?P<label>\d+)"),
    re.compile(r"(?P<path>.+?)\s+(?P<label>\d+)"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListFiles:
    """The lists of a user's own dataset.

    Attributes:
        files: Each file with the part that it is given as; None where its column ``part`` or its
            name tells.
        classes: A file of one class name a line, the first that of label 0. None: labels are names
            already, or numbers that serve as names.
        strict: Whether what is absent or listed twice is refused too, not only what would make a
            wrong study.
    """

    files: tuple[tuple[Path, str | None], ...]
    classes: Path | None = None
    strict: bool = False

    @classmethod
    def parse(
        cls, words: Iterable[str], *, classes: Path | None = None, strict: bool = False
    ) -> "ListFiles":
        """Reads words of the form ``FILE`` or ``PART=FILE``."""
        files: list[tuple[Path, str | None]] = []
        for word in words:
            part, _, file = word.partition("=")
            known = PARTS.get(part) if file else None
            files.append((Path(file if known else word), known))
        return cls(files=tuple(files), classes=classes, strict=strict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one line lists.

    Attributes:
        file: The list.
        line: The line's number in it.
        path: The video's path as it is listed.
        label: A class name or number.
        part: train, validation or test; None where neither line, file name nor user says it.
        split: The split's name.
        group: The source that the video was cut from; None where the list doesn't say.
    """

    file: Path
    line: int
    path: str
    label: str
    part: str | None
    split: str = "1"
    group: str | None = None


def read_list(file: Path, part: str | None, report: Callable[[str], None]) -> list[Row]:
    """Reads one file.

    Args:
        file: The list.
        part: The part that it is given as, or None.
        report: Receives a sentence where columns are passed over.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it lists nothing, or a line can't be understood.
    """
    if file.is_dir():
        raise ValueError(f"{file} is a folder: name the files that list your videos")
    lines = [(number, text) for _, number, text in read_lines(file)]
    header = [name.strip().lower() for name in _fields(lines[0][1])] if lines else []
    if not {"video", "label"} & set(header):
        return _read_without_header(file, lines, part or _part_in_name(file))
    if missing := {"video", "label"} - set(header):
        raise bad_line(file, lines[0][0], lines[0][1], f'a column "{missing.pop()}" too')
    if unknown := [name for name in header if name not in COLUMNS]:
        report(f"{file}: columns that are not read: {', '.join(unknown)}")
    if part and "part" in header:
        raise ValueError(
            f'{file} is given as the {part} part, but has a column "part" of its own: leave '
            f"{part}= out"
        )
    if "split" in header and "part" not in header:
        raise ValueError(f'{file} has a column "split", which needs a column "part"')
    return _read_table(file, header, lines[1:], part or _part_in_name(file))


def _read_table(
    file: Path, header: Sequence[str], lines: Sequence[tuple[int, str]], part: str | None
) -> list[Row]:
    rows = []
    for number, text in lines:
        fields = [field.strip() for field in _fields(text)]
        if len(fields) != len(header):
            raise bad_line(file, number, text, f'{len(header)} fields, "{",".join(header)}"')
        values = dict(zip(header, fields, strict=True))
        for name in ("video", "label", "split"):
            if values.get(name) == "":
                raise bad_line(file, number, text, f"a {name} in each line")
        if "part" in values and values["part"].lower() not in PARTS:
            raise bad_line(file, number, text, "a part that is train, validation or test")
        rows.append(
            Row(
                file=file,
                line=number,
                path=values["video"],
                label=values["label"],
                part=PARTS[values["part"].lower()] if "part" in values else part,
                split=values.get("split", "1"),
                group=values.get("group") or None,
            )
        )
    return _checked(file, rows)


def _read_without_header(
    file: Path, lines: Sequence[tuple[int, str]], part: str | None
) -> list[Row]:
    """Reads the list in the form that fits most of its lines."""
    form = max(_WITHOUT_HEADER, key=lambda form: sum(bool(form.fullmatch(t)) for _, t in lines))
    rows = []
    for number, text in lines:
        match = form.fullmatch(text)
        if match is None:
            expected = (
                '"<path> <label>", "<path> <frames> <label>" or "<path>,<label>" in every line, '
                'with labels as numbers, or a first line "video,label" over class names'
            )
            raise bad_line(file, number, text, expected)
        rows.append(
            Row(file=file, line=number, path=match["path"], label=match["label"], part=part)
        )
    return _checked(file, rows)


def _checked(file: Path, rows: list[Row]) -> list[Row]:
    if not rows:
        raise ValueError(f"{file} lists no video: expected a line for each")
    return rows


def _fields(text: str) -> list[str]:
    return next(csv.reader([text], skipinitialspace=True))


def _part_in_name(file: Path) -> str | None:
    found = {PARTS[match[1]] for match in _PART_IN_NAME.finditer(file.stem.lower())}
    return found.pop() if len(found) == 1 else None
