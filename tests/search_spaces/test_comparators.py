"""The comparators' tests as their papers have them."""

import pytest

import search_spaces
from study.plan import Target, make_training, net_key, settings_of
from study.training.clips import clip_settings

TARGET = Target(dataset="d", store_fingerprint="f", split="1")


@pytest.mark.parametrize(
    ("arm", "views"),
    [
        ("two-stream-cnn-svm", 250),
        ("vgg16-fused", 250),
        ("tsn-2", 250),
        ("tsn-flow", 250),
        ("tsn-resnet50-rgb", 25),
        ("tsm-resnet50-8", 8),
        ("gsm-inception_v3-12x2", 24),
        ("cross-modality-fused", 250),
        ("s3d-dense", 1920),
    ],
)
def test_frames_and_crops_of_a_test_video_are_those_of_the_published_number(
    arm: str, views: int
) -> None:
    space = search_spaces.get("comparators")
    one = space.arm(arm)
    training = make_training(
        one.model, settings_of(one, space.settings, space=space), target=TARGET, seed=0
    )
    clips = clip_settings(training.hyperparameters, views=True)
    crops = {"centre": 1, "three": 3, "ten": 10}[clips.crops]
    assert clips.segments * clips.clips * crops == views


def test_tsn_starts_are_twelve_arms_of_four_nets_that_differ_in_their_initial_weights() -> None:
    space = search_spaces.get("comparators")
    (table,) = [table for table in space.tables if table.name == "tsn-starts"]
    arms = [space.arm(row.arm) for row in table.rows if row.arm]
    nets = {net_key(arm.model, settings_of(arm, space.settings, space=space)) for arm in arms}
    assert (len(arms), len(nets)) == (12, 4)
    random = {arm.name: [s for s, start in arm.weights.items() if start == "none"] for arm in arms}
    assert random["scratch-fused"] == ["spatial", "temporal"]
    assert random["spatial-pretrained-fused"] == ["temporal"]
    assert random["cross-modality-fused"] == random["partial-bn-fused"] == []


def test_the_gate_shift_ensemble_averages_four_networks_from_four_trainings() -> None:
    space = search_spaces.get("comparators")
    (ensemble,) = [one for one in space.ensembles if one.name.startswith("gsm")]
    members = [space.arm(name) for name in ensemble.members]
    nets = {net_key(arm.model, settings_of(arm, space.settings, space=space)) for arm in members}
    assert len(nets) == len(members) == 4
    assert [arm.hyperparameters["test_clips"] for arm in members] == [2, 2, 1, 1]
