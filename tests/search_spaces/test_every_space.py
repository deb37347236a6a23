"""What every space must do: a new space is tested by being registered."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
import torch

import search_spaces
from models import create_model, list_models, make_options
from search_spaces import METRICS, Arm, Settings, Space
from study.plan import Plan, Target, Training, make_plan, meta_network, settings_of
from study.results.published import published
from study.training.hyperparameters import Hyperparameters

TARGET = Target(dataset="d", store_fingerprint="f", split="1")
EMBEDDED_STACKS = 3
EMBEDDED_FIELDS = 4
# What belongs to a network where the protocol is everyone's.
CLIP = ("segments", "test_segments", "test_clips", "flow_length", "crop_size")

every_space = pytest.mark.parametrize("name", search_spaces.names())
both_places = pytest.mark.parametrize("embedded", [True, False], ids=["embedded", "real"])


def space_of(name: str, *, embedded: bool) -> Space:
    space = search_spaces.get(name)
    return space.on("embedded") if embedded else space


@cache
def plan_of(name: str, *, embedded: bool) -> Plan:
    """All arms of a space on the embedded dataset's clips, or on 224 px."""
    space = space_of(name, embedded=embedded)
    return make_plan(
        space.arms if not embedded else [arm for arm in space.arms if arm.default],
        targets=[TARGET],
        seeds=[0],
        settings=lambda arm, _: settings_of(arm, base_of(space, embedded=embedded), space=space),
    )


def base_of(space: Space, *, embedded: bool) -> Settings:
    return space.settings.updated(Settings(hyperparameters={"crop_size": 56 if embedded else 224}))


def published_of(table: str) -> list[dict[str, Any]]:
    return [line for line in published().to_pylist() if line["table_name"] == table]


@every_space
@both_places
def test_every_arm_makes_a_training_with_a_net_that_takes_its_clips(
    name: str, embedded: bool
) -> None:
    for training in plan_of(name, embedded=embedded).trainings.values():
        net = meta_network(training)
        hyperparameters = training.hyperparameters
        assert hyperparameters.segments >= net.min_frames
        assert hyperparameters.test_segments >= net.min_frames
        if "flow_length" in training.options:
            assert training.options["flow_length"] == hyperparameters.flow_length


@every_space
@both_places
def test_a_row_reads_streams_that_its_training_has(name: str, embedded: bool) -> None:
    plan = plan_of(name, embedded=embedded)
    for row in plan.rows:
        streams = meta_network(row.training).streams
        assert row.arm.fusion in streams or row.arm.fusion not in ("spatial", "temporal")
        declared = row.arm.options.get("streams")
        if declared is not None and row.arm.fusion not in ("spatial", "temporal"):
            assert set(streams) == set(declared), "another arm's stream would be averaged in"


@every_space
@both_places
def test_an_arm_of_one_stream_reads_it_by_name(name: str, embedded: bool) -> None:
    """A training may hold the other stream as well, for another arm."""
    space = space_of(name, embedded=embedded)
    for arm in space.arms:
        own = settings_of(arm, base_of(space, embedded=embedded), space=space)
        streams = asdict(make_options(arm.model, own.options)).get("streams", ())
        assert len(streams) != 1 or (arm.fusion,) == streams, arm.name


@every_space
def test_the_embedded_store_has_what_the_arms_take(name: str) -> None:
    for training in plan_of(name, embedded=True).trainings.values():
        hyperparameters = training.hyperparameters
        assert hyperparameters.segments <= EMBEDDED_STACKS
        assert hyperparameters.flow_length <= EMBEDDED_FIELDS
        assert hyperparameters.crop_size == 56
        assert training.options.get("backbone", "small") == "small"


@every_space
def test_the_embedded_dataset_is_trained_on_the_fewest_times(name: str) -> None:
    """Each pair of arms is asked whether one training could serve both."""
    space = space_of(name, embedded=True)
    arms = [arm for arm in space.arms if arm.default]
    apart: list[Arm] = []
    for arm in arms:
        if not any(can_share(arm, other, space) for other in apart):
            apart.append(arm)
    plan = plan_of(name, embedded=True)
    assert len(plan.rows) == len(arms)
    assert len(plan.trainings) == len(apart)


def can_share(arm: Arm, other: Arm, space: Space) -> bool:
    if arm.model != other.model:
        return False
    first, second = (
        settings_of(one, base_of(space, embedded=True), space=space) for one in (arm, other)
    )
    if Hyperparameters.of(first.hyperparameters) != Hyperparameters.of(second.hyperparameters):
        return False
    options = [asdict(make_options(arm.model, one.options)) for one in (first, second)]
    differing = {key for key in options[0] if options[0][key] != options[1][key]}
    if differing != {"streams"}:
        return not differing
    with torch.device("meta"):
        return create_model(arm.model, num_classes=2, **options[0]).independent_streams


@every_space
def test_the_tables_arms_and_the_spaces_arms_are_the_same(name: str) -> None:
    space = search_spaces.get(name)
    arms = {arm.name for arm in space.rows}
    assert set().union(*(table.arms for table in space.tables)) == arms
    for table in space.tables:
        for other in table.other_spaces:
            assert table.arms_of(other) <= {arm.name for arm in search_spaces.get(other).arms}
            assert table.name in search_spaces.tables_showing(other, table.arms_of(other))
    without_arm = {row.key for table in space.tables for row in table.rows if row.arm is None}
    assert not without_arm & arms, "our numbers would be missing from the row"


@every_space
def test_tables_show_the_published_numbers_that_name_them_and_no_others(name: str) -> None:
    for table in search_spaces.get(name).tables:
        lines = published_of(table.name)
        keys = {row.published_key for row in table.rows}
        assert {line["system"] for line in lines} <= {name}
        assert {line["arm"] for line in lines} <= keys
        accuracies = {line["metric"] for line in lines} & METRICS.keys()
        assert accuracies <= set(table.metrics)
        assert (table.ours == (not lines)) or table.note, "nothing says why no number is published"
        numberless = [row for row in table.rows if row.arm is None]
        assert {row.key for row in numberless} <= {line["arm"] for line in lines}


@every_space
@both_places
def test_parameters_change_the_training_or_fusion_of_each_arm_that_takes_them(
    name: str, embedded: bool
) -> None:
    space = space_of(name, embedded=embedded)
    base = base_of(space, embedded=embedded)
    for arm in space.arms:
        plain = settings_of(arm, base, space=space)
        for parameter in space.parameters_for(arm):
            values = parameter.choices if hasattr(parameter, "choices") else (0.123,)
            for value in values:
                found = {parameter.name: parameter.to_optuna(value)}
                changed = settings_of(arm, base, space=space, found=found)
                assert changed != plain or value == known(plain, parameter.name)
                make_options(arm.model, changed.options)
                Hyperparameters.of(changed.hyperparameters)


def known(settings: Settings, name: str) -> Any:
    return settings.options.get(name.removeprefix("options."), None)


@every_space
def test_loss_weights_are_of_losses_that_the_net_has(name: str) -> None:
    space = space_of(name, embedded=True)
    base = base_of(space, embedded=True)
    for arm in (arm for arm in space.arms if arm.default):
        names = weights_of(space, arm)
        if not names:
            continue
        own = settings_of(arm, base, space=space)
        net = create_model(arm.model, num_classes=3, **own.options)
        segments = Hyperparameters.of(own.hyperparameters).segments
        output = net(**net.example_inputs(batch_size=2, frames=segments, size=56))
        losses = {*output.logits, *output.auxiliary_logits, *output.auxiliary_losses}
        assert set(names) - {"spatial", "temporal"} <= losses, arm.name
        unweighted = {*output.auxiliary_logits, *output.auxiliary_losses} - set(names)
        assert not unweighted, f"{arm.name}: no search of the weight of {unweighted}"


def weights_of(space: Space, arm: Arm) -> Sequence[str]:
    names = [parameter.name for parameter in space.parameters_for(arm)]
    return [n.removeprefix("loss_weights.") for n in names if n.startswith("loss_weights.")]


def test_the_comparison_of_all_has_one_protocol_and_every_model() -> None:
    for embedded in (True, False):
        plan = plan_of("all", embedded=embedded)
        shared = [
            {**asdict(training.hyperparameters), **dict.fromkeys(CLIP)}
            for training in plan.trainings.values()
        ]
        assert all(one == shared[0] for one in shared)
    assert {arm.model for arm in search_spaces.get("all").arms} == set(list_models())


@every_space
def test_a_net_that_mixes_segments_is_tested_on_as_many_as_it_trains_on(name: str) -> None:
    """Whether it mixes them shows where a clip's score isn't the mean of its halves' scores."""
    for training in plan_of(name, embedded=False).trainings.values():
        own = training.hyperparameters
        if own.test_segments != own.segments:
            assert not mixes_segments(training)


def mixes_segments(training: Training) -> bool:
    small = {"backbone": "small", "levels": ()}
    options = {key: small.get(key, value) for key, value in training.options.items()}
    net = create_model(training.model, num_classes=2, **options).eval()
    clip = net.example_inputs(batch_size=1, frames=4, size=32)
    halves = ({key: x[:, half] for key, x in clip.items()} for half in (slice(2), slice(2, None)))
    with torch.inference_mode():
        whole, first, last = (net(**frames).logits for frames in (clip, *halves))
    means = {stream: (first[stream] + last[stream]) / 2 for stream in whole}
    return not all(torch.allclose(whole[s], means[s], rtol=0, atol=1e-5) for s in whole)
