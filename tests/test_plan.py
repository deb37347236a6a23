"""The plan against an enumeration of what each arm would need by itself."""

from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from typing import Any

import pytest

import search_spaces
from search_spaces import Arm, Settings
from study.plan import (
    Target,
    effective_options,
    make_plan,
    make_training,
    meta_network,
    modality,
    model_modules,
    served_trainings,
    settings_of,
    stages_left,
    with_stages,
)
from study.provenance import fingerprint
from study.request import fitting_arms
from tests.staged_study import FUSED, SPATIAL, TOWERS, space_of

TARGET = Target(dataset="embedded", store_fingerprint="f", split="1")
SPACE = search_spaces.get("stilt")
BASE = Settings(
    options={"backbone": "small"}, hyperparameters={"epochs": 2, "crop_size": 32, "flow_length": 3}
)
TABLES_4_AND_5 = ("spatial", "temporal", "two-stream", "stil", "stil-awf-simplex", "stil-early")
FUSION_ABLATION = tuple(arm.name for arm in SPACE.arms if arm.default)


def plan_of(names, *, targets=(TARGET,), seeds=(0,), found=None):
    return make_plan(
        [SPACE.arm(name) for name in names],
        targets=targets,
        seeds=seeds,
        settings=lambda arm, target: settings_of(arm, BASE, space=SPACE, found=found),
    )


def test_tables_4_and_5_are_six_arms_from_two_trainings():
    plan = plan_of(TABLES_4_AND_5)
    assert len(plan.rows) == 6
    assert len(plan.trainings) == 2


def test_the_whole_fusion_ablation_is_sixteen_arms_from_the_same_two_trainings():
    plan = plan_of(FUSION_ABLATION)
    assert len(plan.rows) == 16
    assert plan.trainings.keys() == plan_of(TABLES_4_AND_5).trainings.keys()


def test_arms_of_one_net_that_are_tested_in_other_views_share_its_training():
    views = {"one": {}, "two": {"test_clips": 2}, "large": {"test_crop_size": 48}}
    arms = [
        Arm(name=name, label=name, model="stilt", hyperparameters=own)
        for name, own in views.items()
    ]
    plan = make_plan(
        arms, targets=[TARGET], seeds=[0], settings=lambda arm, _: BASE.updated(arm.own)
    )
    assert len(plan.trainings) == 1
    assert [row.training.hyperparameters.test_clips for row in plan.rows] == [1, 2, 1]
    assert len({row.training.scoring_id for row in plan.rows}) == 3


def test_targets_and_seeds_multiply_trainings():
    other = Target(dataset="embedded", store_fingerprint="f", split="2")
    plan = plan_of(TABLES_4_AND_5, targets=(TARGET, other), seeds=(0, 1, 2))
    assert len(plan.rows) == 6 * 2 * 3
    assert len(plan.trainings) == 2 * 2 * 3


def test_a_training_with_another_seed_is_the_one_that_is_made_with_it():
    for name in TABLES_4_AND_5:
        settings = settings_of(SPACE.arm(name), BASE, space=SPACE)
        one, other = (
            make_training(SPACE.arm(name).model, settings, target=TARGET, seed=seed)
            for seed in (0, 7)
        )
        assert one.with_seed(7) == other
        assert one.with_seed(7).training_id == other.training_id != one.training_id
        assert replace(one, train_on="all").training_id != one.training_id
        content = {
            **{"model": one.model, "options": effective_options(one.model, one.options)},
            **{"hyperparameters": one.hyperparameters.of_training(), "target": asdict(TARGET)},
            **{"seed": 0, "train_on": "train", "weights": "none", "code": ""},
        }
        assert one.training_id == fingerprint(content)


def test_any_choice_of_arms_needs_one_training_a_net_with_just_the_streams_it_reads():
    """Enumerates all choices of up to three arms and works out the need arm by arm."""
    for count in (1, 2, 3):
        for names in combinations(FUSION_ABLATION, count):
            needed: dict[bool, set[str]] = {}
            for name in names:
                arm = SPACE.arm(name)
                streams = (
                    {arm.fusion}
                    if arm.fusion in ("spatial", "temporal")
                    else {"spatial", "temporal"}
                )
                needed.setdefault(arm.options["interaction"], set()).update(streams)
            trained = {
                training.options["interaction"]: set(training.options["streams"])
                for training in plan_of(names).trainings.values()
            }
            assert trained == needed


def test_a_refitted_row_is_tested_on_all_and_fitted_on_a_training_with_videos_held_out():
    """Enumerates all choices of up to two arms and works out the need arm by arm."""
    other = replace(TARGET, split="2")

    def planned(arms, train_on):
        return make_plan(
            arms,
            targets=(TARGET, other),
            seeds=(1, 2),
            settings=lambda arm, target: settings_of(arm, BASE, space=SPACE),
            training=partial(make_training, train_on=train_on),
        )

    for count in (1, 2):
        for names in combinations(FUSION_ABLATION, count):
            arms = [SPACE.arm(name) for name in names]
            plan = planned(arms, "all").fitted_on(planned(fitting_arms(arms), "train"))
            fitted = {name for name in names if "awf" in name or "early" in name}
            nets = {(SPACE.arm(name).options["interaction"], "all") for name in names}
            nets |= {(SPACE.arm(name).options["interaction"], "train") for name in fitted}
            assert len(plan.rows) == count * 2 * 2
            assert len(plan.trainings) == len(nets) * 2 * 2
            for row in plan.rows:
                assert {one.train_on for one in row.trainings.values()} == {"all"}
                again = {
                    stream: replace(one, train_on="train") for stream, one in row.trainings.items()
                }
                if row.arm.name not in fitted:
                    assert row.fitted_on == {}
                else:
                    assert row.fitted_on == again, "the same network, target and seed"
                assert {one.training_id for one in row.distinct_trainings} <= plan.trainings.keys()


def test_a_training_on_all_of_train_is_the_same_whatever_would_be_held_out():
    for train_on, distinct in (("all", 1), ("train", 2)):
        made = {
            make_training(
                "stilt", Settings(), target=replace(TARGET, carve=carve), seed=0, train_on=train_on
            ).training_id
            for carve in (0, 1)
        }
        assert len(made) == distinct


def test_streams_that_interact_are_never_trained_alone():
    arm = Arm(name="x", label="x", model="stilt", options={"interaction": True}, fusion="spatial")
    plan = make_plan(
        [arm], targets=[TARGET], seeds=[0], settings=lambda arm, _: BASE.updated(arm.own)
    )
    (training,) = plan.trainings.values()
    assert training.options["streams"] == ("spatial", "temporal")


def test_a_stream_trained_alone_has_no_weight_for_the_other_ones_loss():
    found = {"loss_weights.spatial": 2.0, "loss_weights.temporal": 0.5}
    (training,) = plan_of(("spatial",), found=found).trainings.values()
    assert training.hyperparameters.loss_weights == {"spatial": 2.0}


def test_arms_that_differ_in_a_hyperparameter_are_trained_apart():
    arms = [
        Arm(
            name=f"rate-{rate}",
            label="",
            model="stilt",
            options={"interaction": False},
            hyperparameters={"learning_rate": rate},
        )
        for rate in (0.1, 0.2)
    ]
    plan = make_plan(
        arms, targets=[TARGET], seeds=[0], settings=lambda arm, _: BASE.updated(arm.own)
    )
    assert len(plan.trainings) == 2


def test_found_values_reach_only_the_arms_that_they_matter_to():
    found = {"learning_rate": 0.03, "options.attention_dim": 128}
    plan = plan_of(("two-stream", "stil"), found=found)
    plain, interacting = (
        next(t for t in plan.trainings.values() if t.options["interaction"] is interaction)
        for interaction in (False, True)
    )
    assert plain.hyperparameters.learning_rate == interacting.hyperparameters.learning_rate == 0.03
    assert interacting.options["attention_dim"] == 128
    assert plain.options["attention_dim"] != 128


def by_rate(**rates):
    """Settings of an arm's streams that differ in the learning rate."""
    return {
        stream: BASE.updated(
            Settings(options={"interaction": False}, hyperparameters={"learning_rate": rate})
        )
        for stream, rate in rates.items()
    }


def test_a_row_reads_each_stream_of_a_training_at_the_streams_own_settings():
    chosen = {
        "spatial": by_rate(spatial=0.1),
        "temporal": by_rate(temporal=0.2),
        "two-stream": by_rate(spatial=0.1, temporal=0.3),
        "two-stream-weighted": by_rate(spatial=0.3, temporal=0.3),
    }
    plan = make_plan(
        [SPACE.arm(name) for name in chosen],
        targets=[TARGET],
        seeds=[1, 2],
        settings=lambda arm, _: chosen[arm.name],
    )
    read = {
        (row.arm.name, stream): (training.hyperparameters.learning_rate, training.seed)
        for row in plan.rows
        for stream, training in row.trainings.items()
        if row.training.seed == 2
    }
    assert read == {
        (name, stream): (settings.hyperparameters["learning_rate"], 2)
        for name, settings_by_stream in chosen.items()
        for stream, settings in settings_by_stream.items()
    }
    # Trained is what is read and no more, the streams of equal settings together.
    trained = {
        (training.hyperparameters.learning_rate, training.options["streams"])
        for training in plan.trainings.values()
    }
    assert trained == {(0.1, ("spatial",)), (0.2, ("temporal",)), (0.3, ("spatial", "temporal"))}
    assert len(plan.trainings) == 2 * 3
    ids = {row.arm.name: len(row.distinct_trainings) for row in plan.rows}
    assert ids == {"spatial": 1, "temporal": 1, "two-stream": 2, "two-stream-weighted": 1}
    assert {row.arm.name: modality(row) for row in plan.rows} == {
        "spatial": "RGB",
        "temporal": "flow",
        "two-stream": "RGB + flow",
        "two-stream-weighted": "RGB + flow",
    }


def test_a_training_serves_those_of_fewer_streams_where_streams_are_independent():
    found = {"loss_weights.spatial": 2.0, "loss_weights.temporal": 0.5}
    plan = plan_of(("two-stream", "stil"), found=found)
    both, interacting = plan.trainings.values()
    alone = [
        training.training_id
        for name in ("spatial", "temporal")
        for training in plan_of((name,), found=found).trainings.values()
    ]
    assert [one.training_id for one in served_trainings(both)] == alone
    assert served_trainings(interacting) == ()
    (spatial,) = plan_of(("spatial",)).trainings.values()
    assert served_trainings(spatial) == ()


def test_the_fingerprint_changes_with_everything_that_can_change_the_result():
    def fingerprint(**changes):
        settings: dict[str, Any] = {
            "options": {"interaction": False},
            "hyperparameters": {},
            "seed": 0,
            "split": "1",
        }
        settings |= {"store": "f", "code": "a", "weights": "none", "train_on": "train"}
        settings |= changes
        return make_training(
            "stilt",
            Settings(options=settings["options"], hyperparameters=settings["hyperparameters"]),
            target=Target(
                dataset="d", store_fingerprint=settings["store"], split=settings["split"]
            ),
            seed=settings["seed"],
            code=lambda _: settings["code"],
            weights=lambda _: settings["weights"],
            train_on=settings["train_on"],
        ).training_id

    changes: list[dict[str, Any]] = [
        {"options": {"interaction": False, "dropout": 0.1}},
        {"hyperparameters": {"learning_rate": 0.5}},
        {"hyperparameters": {"loss_weights": {"spatial": 2.0}}},
        {"seed": 1},
        {"split": "2"},
        {"store": "g"},
        {"code": "b"},
        {"weights": "imagenet"},
        {"train_on": "all"},
    ]
    fingerprints = [fingerprint(), *(fingerprint(**change) for change in changes)]
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_fingerprint_does_not_change_with_how_equal_settings_are_written():
    written_out = make_training(
        "stilt",
        Settings(
            options={"interaction": True, "head_dims": [512, 1024]},
            hyperparameters={"learning_rate": 1e-2, "milestones": [0.4, 0.8], "clip_norm": None},
        ),
        target=TARGET,
        seed=0,
    )
    default = make_training("stilt", Settings(), target=TARGET, seed=0)
    assert written_out.training_id == default.training_id


SAME_TRAINING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"loss_weights": {}}, {"loss_weights": {"spatial": 1, "temporal": 1}}),
    ({"schedule": "cosine"}, {"schedule": "cosine", "milestones": [0.5]}),
    ({}, {"options.attention_dim": 64, "options.rounds": 3}),
    ({}, {"test_segments": 10, "test_crops": "ten", "test_clips": 2}),
]


@pytest.mark.parametrize(("one", "other"), SAME_TRAINING)
def test_what_has_no_effect_makes_no_other_training(one, other):
    plain = {"options.interaction": False}
    first, second = (
        make_training("stilt", Settings.of({**plain, **values}), target=TARGET, seed=0)
        for values in (one, other)
    )
    assert first.training_id == second.training_id


def test_a_weight_for_the_loss_of_a_stream_that_the_net_lacks_makes_no_other_training():
    spatial: dict[str, Any] = {"options.interaction": False, "options.streams": ("spatial",)}
    weights: tuple[dict[str, Any], ...] = ({}, {"loss_weights.temporal": 2.0})
    first, second = (
        make_training("stilt", Settings.of({**spatial, **values}), target=TARGET, seed=0)
        for values in weights
    )
    assert first.training_id == second.training_id


def test_views_change_the_scoring_and_nothing_else_of_scoring_changes_it():
    changes: dict[str, dict[str, Any]] = {
        "default": {},
        "same": {"options.head_dims": [512, 1024]},
        "segments": {"test_segments": 10},
        "crops": {"test_crops": "ten"},
        "clips": {"test_clips": 2},
        "rate": {"learning_rate": 0.5},
    }
    made = {
        name: make_training("stilt", Settings.of(values), target=TARGET, seed=0)
        for name, values in changes.items()
    }
    scorings = {name: training.scoring_id for name, training in made.items()}
    assert scorings["default"] == scorings["same"]
    assert len(set(scorings.values())) == len(scorings) - 1


def test_arms_that_differ_in_an_option_without_effect_share_a_training():
    arms = [
        Arm(
            name=stream,
            label="",
            model="stilt",
            options={"interaction": False, "attention_dim": dim},
            fusion=stream,
        )
        for stream, dim in (("spatial", 64), ("temporal", 128))
    ]
    plan = make_plan(
        arms, targets=[TARGET], seeds=[0], settings=lambda arm, _: BASE.updated(arm.own)
    )
    assert len(plan.trainings) == 1


@pytest.mark.parametrize(
    ("options", "backbone"),
    [({"backbone": "small"}, "small"), ({"backbone": "vgg19"}, "vgg")],
)
def test_a_net_is_made_of_its_own_modules_and_its_own_backbone(options, backbone):
    training = make_training("stilt", Settings(options=options), target=TARGET, seed=0)
    modules = model_modules(meta_network(training))
    assert "models.stilt" in modules
    named = {name for name in modules if name.startswith("models.backbones.")}
    assert named == {"models.backbones.base", f"models.backbones.{backbone}"}


def test_an_unknown_hyperparameter_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match=r"learning_rat\b.*there are .*learning_rate"):
        make_training("stilt", Settings(hyperparameters={"learning_rat": 1}), target=TARGET, seed=0)


@pytest.mark.parametrize(
    ("model", "options", "network"),
    [
        ("stilt", {"backbone": "resnet34"}, "resnet34"),
        ("conv_fusion", {"temporal_backbone": "vgg_m_2048"}, "vgg16"),
        ("attention_consistency", {"form": "slow_fast"}, "resnet50"),
        ("i3d", {}, "googlenet"),
        ("i3d", {"width": 0.5}, ""),
        ("c3d", {}, ""),
    ],
)
def test_a_training_starts_from_the_image_network_that_its_net_is_made_of(model, options, network):
    training = make_training(model, Settings(options=options), target=TARGET, seed=0)
    assert meta_network(training).imagenet_network == network


def staged_plan(*arms, base=None, targets=(TARGET,), seeds=(1,), **more):
    space = space_of(*arms)
    return make_plan(
        arms,
        targets=targets,
        seeds=seeds,
        settings=lambda arm, _: settings_of(arm, base or space.settings, space=space),
        **more,
    )


def fused_of(plan):
    return next(one for one in plan.trainings.values() if one.model == "conv_fusion")


def test_the_towers_are_the_plain_arms_training_whatever_else_is_asked_for():
    expected = fused_of(staged_plan(FUSED))
    assert expected.starts == {
        stream: make_training(
            "two_stream",
            settings_of(TOWERS, space_of(TOWERS).settings, space=space_of(TOWERS)),
            target=TARGET,
            seed=1,
            streams=(stream,),
        ).training_id
        for stream in ("spatial", "temporal")
    }
    for arms in ((FUSED, TOWERS), (SPATIAL, FUSED), (TOWERS, SPATIAL, FUSED)):
        plan = staged_plan(*arms)
        assert len(plan.trainings) == 2
        assert next(iter(plan.trainings.values())).options["streams"] == ("spatial", "temporal")
        assert fused_of(plan).training_id == expected.training_id
    of_one = replace(FUSED, starts_from={"spatial": SPATIAL})
    alone = staged_plan(of_one)
    assert [one.options.get("streams") for one in alone.trainings.values()] == [("spatial",), None]
    assert fused_of(alone).starts == {"spatial": expected.starts["spatial"]}
    assert fused_of(staged_plan(of_one, TOWERS)).training_id == fused_of(alone).training_id


def test_a_stream_that_a_first_stage_lacks_is_named():
    options = {"backbone": "small", "head_dims": (8,)}
    first = make_training(
        "two_stream", Settings(options=options), target=TARGET, seed=0, streams=("spatial",)
    )
    for given in ("temporal", "*"):
        with pytest.raises(ValueError, match=r"temporal stream of conv_fusion .* two_stream has"):
            make_training(
                "conv_fusion",
                Settings(options=options),
                target=TARGET,
                seed=0,
                starts_from={given: first},
            )


def test_another_first_stage_is_another_training():
    def of(first):
        return fused_of(staged_plan(replace(FUSED, starts_from=first))).training_id

    both = dict.fromkeys(("spatial", "temporal"), TOWERS)
    edited = replace(TOWERS, hyperparameters={"weight_decay": 0.5})
    before = replace(TOWERS, starts_from={"*": TOWERS})
    ids = [
        of({}),
        of(both),
        of({"spatial": TOWERS}),
        of({**both, "temporal": edited}),
        of(dict.fromkeys(both, edited)),
        of(dict.fromkeys(both, before)),
    ]
    assert len(set(ids)) == len(ids)
    assert of(dict.fromkeys(both, replace(TOWERS, name="other", label="Other"))) == of(both)


def test_what_a_stream_starts_from_is_its_own_alone_and_with_others():
    first = {"spatial": TOWERS, "temporal": replace(TOWERS, hyperparameters={"weight_decay": 0.5})}
    second = replace(TOWERS, options={"dropout": 0.5}, starts_from=first)
    joint = staged_plan(second).rows[0].training
    served = {one.options["streams"]: one.training_id for one in served_trainings(joint)}
    for stream in ("spatial", "temporal"):
        plan = staged_plan(replace(second, fusion=stream))
        assert len(plan.trainings) == 2, "the other stream's first stage isn't needed"
        assert plan.rows[0].training.training_id == served[(stream,)]


def test_found_values_are_none_of_a_first_stages():
    space = space_of(FUSED, layers=(("stage3",), ("stage4",)))
    found = {"options.layers": "stage3"}
    settings = settings_of(FUSED, space.settings, space=space, found=found)
    assert settings.options["layers"] == ("stage3",)
    untuned = settings_of(TOWERS, space.settings, space=space)
    assert [stage.settings for stage in settings.starts_from.values()] == [untuned, untuned]


def test_what_is_left_to_finish_comes_before_what_starts_from_it():
    earliest = replace(SPATIAL, options={"dropout": 0.5})
    middle = replace(SPATIAL, starts_from={"*": earliest})
    plan = staged_plan(replace(FUSED, starts_from={"spatial": middle}))
    last = fused_of(plan)
    first, second, _ = plan.trainings.values()
    assert list(stages_left(last, ())) == [first.training_id, second.training_id]
    assert list(stages_left(last, (first.training_id,))) == [second.training_id]
    assert not stages_left(last, (second.training_id,))
    assert not stages_left(last, (last.training_id,))
    assert list(with_stages([last])) == list(plan.trainings)
