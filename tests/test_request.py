"""What a request is refused for before anything starts."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.request import Study, _check_groups
from tests.test_conduct import study_of


def with_groups(study: Study, count: int) -> Study:
    """The study with validation videos of so many sources."""
    (split, parts), *_ = study.parts.items()
    by_group = {video.group: video for video in parts.train}
    validation = tuple(by_group.values())[:count]
    return replace(study, parts={split: replace(parts, validation=validation)})


@pytest.mark.parametrize(
    ("asked", "groups", "refused"),
    [
        ({"arms": ("stil-awf-l2",)}, 2, "stil-awf-l2 fit their fusion on at least 3; .*--set fus"),
        ({"arms": ("stil-awf-l2",)}, 3, None),
        ({"arms": ("stil-awf-l2",), "changes": {"fusion_lambda": 1.0}}, 2, None),
        ({"arms": ("stil", "stil-early")}, 1, "stil-early fit their fusion on at least 2; name"),
        ({"arms": ("stil", "stil-early")}, 2, None),
        ({"arms": ("stil",)}, 1, None),
        ({"arms": ("stil",), "tuning": "shared"}, 2, "stil-awf-simplex fit .* at least 3"),
    ],
)
def test_too_few_sources_to_judge_a_fitted_fusion_are_refused(
    tiny_store: Path, tmp_path: Path, asked: dict[str, Any], groups: int, refused: str | None
) -> None:
    study = with_groups(study_of(tiny_store, tmp_path, **asked), groups)
    if refused is None:
        _check_groups(study)
    else:
        with pytest.raises(ValueError, match=refused):
            _check_groups(study)
