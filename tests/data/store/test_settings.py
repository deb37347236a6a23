"""What a store is made with: which frames are stored, and what is refused."""

import json
from dataclasses import replace

import pytest

from study.data.flow.compute import FlowSettings
from study.data.store.settings import StoreSettings, stack_pairs, stack_starts


@pytest.mark.parametrize(
    ("frames", "stacks", "length", "starts"),
    [
        (25, 3, 4, [3, 10, 17]),  # 21 possible starts in parts of 7
        (14, 1, 3, [5]),
        (5, 3, 4, [0]),
        (6, 3, 4, [0, 1]),  # two possible starts
        (2, 3, 10, [0]),  # shorter than a stack
    ],
)
def test_stacks_start_in_the_middle_of_equal_parts(frames, stacks, length, starts):
    settings = StoreSettings(dataset="d", stacks=stacks, flow_length=length)
    assert stack_starts(frames, settings).tolist() == starts


def test_stacks_never_leave_the_video_and_each_pair_is_stored_once():
    for frames in range(2, 40):
        for stacks in (1, 2, 3, 7):
            for length in (1, 4, 10):
                settings = StoreSettings(dataset="d", stacks=stacks, flow_length=length)
                starts = stack_starts(frames, settings)
                wanted = {
                    pair
                    for start in starts.tolist()
                    for pair in range(start, start + length)
                    if pair + 1 < frames
                }
                assert stack_pairs(starts, frames, settings).tolist() == sorted(wanted)
                assert 1 <= len(starts) <= stacks
                assert frames <= length or starts[-1] + length < frames


def test_settings_survive_json(settings, full_settings):
    for given in (settings, replace(settings, flow=None), full_settings):
        assert StoreSettings.from_dict(json.loads(json.dumps(given.to_dict()))) == given


def test_a_length_of_stacks_means_nothing_without_stacks(full_settings):
    assert replace(full_settings, flow_length=5).to_dict() == full_settings.to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {"short_side": 4},
        {"frame_step": 0},
        {"stacks": 0},
        {"jpeg_quality": 101},
        {"stacks": 1.5},
        {"frame_step": True},
    ],
)
def test_wrong_settings_are_refused(wrong):
    name, value = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"{name} must be a whole number .*, got {value}"):
        StoreSettings(dataset="folder", **wrong)


def test_an_unknown_codec_is_refused():
    with pytest.raises(ValueError, match=r"flow_codec must be one of .*, got 'png'"):
        StoreSettings(dataset="folder", flow_codec="png")


def test_settings_are_changed_by_name_and_flow_options_by_text():
    settings = StoreSettings(dataset="d")
    assert settings.changed(short_side=None, stacks=None) == settings
    assert settings.changed(short_side=32, flow_options=("warps=2", "tau=0.1")) == replace(
        settings, short_side=32, flow=FlowSettings(warps=2, tau=0.1)
    )
    opencv = settings.changed(flow_backend="opencv", stacks=2, flow_length=5)
    assert (opencv.flow_backend, opencv.stacks, opencv.flow_length) == ("opencv", 2, 5)
    precomputed = settings.changed(precomputed=True)
    assert precomputed.flow is None
    assert precomputed.changed(short_side=32).flow is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flow_length": 5}, "needs stacks"),
        ({"precomputed": True, "flow_backend": "tvl1"}, "no flow backend or option"),
        ({"precomputed": True, "flow_options": ["warps=2"]}, "no flow backend or option"),
        ({"flow_options": ["warp=2"]}, "unknown flow option 'warp'; there are: lambda_, "),
        ({"flow_options": ["warps=2.5"]}, "warps takes a whole number, got '2.5'"),
        ({"flow_options": ["tau"]}, "tau takes a number, got ''"),
        ({"flow_options": ["tau=0"]}, r"flow\.tau must be a number above 0, got 0\.0"),
    ],
)
def test_changes_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        StoreSettings(dataset="d").changed(**changes)
