"""Which test videos arms get right and wrong, against a count by hand, and the page of them."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from study.results.gallery import (
    JudgedVideo,
    Strip,
    judged_videos,
    most_telling,
    render_gallery,
)
from study.results.store import ResultStore
from tests.sample_results import ARMS, PROTOCOL, write_study

NASTY = '<img src=x onerror="alert(1)"> & {{ 7 * 7 }}'
TWO = ("two-stream", "stil")


def judged(video: str, *right: float, label: int = 0) -> JudgedVideo:
    by_arm = dict(zip("ab", right, strict=True))
    return JudgedVideo(
        video=video,
        label=label,
        right=by_arm,
        said={arm: label if share > 0.5 else label + 1 for arm, share in by_arm.items()},
        seeds=dict.fromkeys(by_arm, 2),
    )


def test_what_arms_say_is_counted_over_their_seeds(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store, study="one", classes=3, arms={arm: ARMS[arm] for arm in (*TWO, "spatial")})
    of: dict[str, Any] = {"study": "one", "dataset": "ucf101", "protocol": PROTOCOL, "split": "1"}
    found = judged_videos(store, TWO, **of)
    lines = store.read("predictions", part="test", **of).to_pylist()
    assert [one.video for one in found] == sorted({line["video"] for line in lines})
    for one in found:
        assert list(one.right) == list(TWO)
        for arm in TWO:
            said = [x["predicted"] for x in lines if (x["video"], x["arm"]) == (one.video, arm)]
            assert one.seeds[arm] == len(said) == 3
            assert one.right[arm] == pytest.approx(said.count(one.label) / 3)
            assert Counter(said)[one.said[arm]] == max(Counter(said).values())
        assert one.disagreement == pytest.approx(abs(one.right["stil"] - one.right["two-stream"]))
    assert judged_videos(store, (*TWO, "other"), **of) == []


def test_kinds_take_turns_and_the_most_disagreement_comes_first() -> None:
    videos = [
        judged("both", 1, 1),
        judged("neither", 0, 0),
        *(judged(f"only a {i}", 1, 0.5 * (i == 0)) for i in range(4)),
        judged("only b", 0, 1),
    ]
    chosen = [one.video for one in most_telling(videos, 5)]
    assert chosen == ["only a 1", "only b", "both", "neither", "only a 2"]
    assert sorted(one.video for one in most_telling(videos, 99)) == sorted(
        one.video for one in videos
    )


def test_no_class_fills_the_gallery() -> None:
    videos = [judged(f"{label} {i}", 1, 0, label=label) for label in range(3) for i in range(4)]
    assert [one.label for one in most_telling(videos, 6)] == [0, 1, 2, 0, 1, 2]


def test_a_video_is_drawn_when_the_page_comes_to_it_and_names_stay_text() -> None:
    drawn: list[str] = []

    def videos() -> Iterator[tuple[JudgedVideo, list[Strip]]]:
        for name in (NASTY, "second"):
            drawn.append(name)
            yield judged(name, 1, 0), [Strip(caption=NASTY, jpeg=b"abc", width=7, height=5)]

    pieces = render_gallery(
        videos(),
        study=NASTY,
        dataset="ucf101",
        split="1",
        labels={"a": NASTY, "b": "Two-stream"},
        classes=[NASTY, "run"],
        notes=[NASTY],
    )
    page = ""
    while "✗ run" not in page:
        page = "".join([page, next(pieces)])
    assert drawn == [NASTY]
    page = "".join([page, *pieces])
    assert drawn == [NASTY, "second"]
    assert NASTY not in page
    assert page.count('src="data:image/jpeg;base64,YWJj" width="7" height="5"') == 2
    assert page.count('data-right="1.0000 0.0000 "') == 2
