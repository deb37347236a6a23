"""Jester as published, and what a bad line of it says."""

from pathlib import Path

import pytest

from study.data.datasets import jester
from tests.data.datasets.annotated import check_numbered, swapped_classes, write_files


def test_jester_is_read_as_published(real_data: Path) -> None:
    annotations = jester.annotate(real_data / "splits" / "jester")
    assert annotations.dataset == "jester"
    check_numbered(annotations, counts=(118562, 14787), classes=27)
    assert swapped_classes(annotations) == {
        frozenset(("Swiping Left", "Swiping Right")),
        frozenset(("Sliding Two Fingers Left", "Sliding Two Fingers Right")),
        frozenset(("Turning Hand Clockwise", "Turning Hand Counterclockwise")),
    }


@pytest.mark.parametrize("line", ["7;Waving", "../7;Swiping", "7", "Swiping;7"])
def test_a_bad_jester_line_is_named(tmp_path: Path, line: str) -> None:
    files = {"jester-v1-labels.csv": "Swiping\n", "jester-v1-validation.csv": "9;Swiping\n"}
    write_files(tmp_path, {**files, "jester-v1-train.csv": f"8;Swiping\n{line}\n"})
    with pytest.raises(ValueError, match=r'jester-v1-train\.csv, line 2: expected "<number>;<clas'):
        jester.annotate(tmp_path)
