"""A split's parts: named where the dataset names them, carved where it doesn't."""

import pytest

from study.data.datasets.annotations import Annotations, Split, Video
from study.data.datasets.parts import split_parts

VIDEOS = [Video(name=f"a/{i}", path=f"{i}.mp4", label=0, group=f"{i}") for i in range(10)]
EVERY = frozenset(video.name for video in VIDEOS)


def annotated(*, validation: bool) -> Annotations:
    named = {"validation": tuple(VIDEOS[5:7])} if validation else {}
    split = Split(name="1", train=tuple(VIDEOS[:5]), test=tuple(VIDEOS[7:]), **named)
    return Annotations(dataset="d", classes=("a",), splits={"1": split}, flip_classes=(0,))


@pytest.mark.parametrize("carve", [0, 1, 2])
def test_a_named_validation_part_is_used_as_it_is(carve: int) -> None:
    parts = split_parts(annotated(validation=True), "1", stored=EVERY, carve=carve)
    assert list(parts.train) == VIDEOS[:5]
    assert list(parts.validation) == VIDEOS[5:7]
    assert list(parts.test) == VIDEOS[7:]


def test_without_one_a_fifth_of_train_is_carved() -> None:
    parts = split_parts(annotated(validation=False), "1", stored=EVERY)
    assert len(parts.validation) == 1
    assert {*parts.train, *parts.validation} == {*VIDEOS[:5]}


def test_training_on_all_adds_the_named_validation_part() -> None:
    parts = split_parts(annotated(validation=True), "1", stored=EVERY, train_on="all")
    assert list(parts.train) == VIDEOS[:7]
    assert parts.validation == ()


def test_missing_videos_of_every_part_count_and_an_empty_part_is_refused() -> None:
    stored = EVERY - {"a/0", "a/5", "a/9"}
    assert split_parts(annotated(validation=True), "1", stored=stored).missing == 3
    with pytest.raises(ValueError, match=r"no video in the validation part.* lacks 2 of .* 10"):
        split_parts(annotated(validation=True), "1", stored=EVERY - {"a/5", "a/6"})
