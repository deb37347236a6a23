import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from typing import Any, Literal

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

import search_spaces
from models import VideoModel, create_model
from study.plan import Target, Training, make_plan, settings_of
from study.training.hyperparameters import Hyperparameters
from study.training.loop import put_channels_last, video_losses
from study.training.memory import (
    CONTEXT_BYTES,
    FRAGMENTATION,
    MemoryEstimate,
    choose_micro_batch,
    choose_scoring_batch,
    estimate_memory,
    estimate_scoring_memory,
    measure_memory,
    passes_matter,
)
from study.training.recomputation import recompute_activations

GIB = 2**30
CARD = 24 * 10**9  # an L4's
SMALL = Hyperparameters(batch_size=6, segments=3, flow_length=2, crop_size=64, test_segments=4)
NETS: dict[str, dict[str, Any]] = {
    "stilt": {"backbone": "small", "head_dims": (16,), "attention_dim": 16},
    "tsn": {"backbone": "resnet18", "streams": ("spatial", "temporal"), "partial_bn": True},
    "cstm": {"backbone": "bn_inception", "streams": ("spatial",)},
    "r2plus1d": {"width": 0.25, "streams": ("spatial",)},
    "stin": {"backbone": "small", "attention_dim": 16},
    "tsm": {"backbone": "small"},
}
every_net = pytest.mark.parametrize("name", NETS)
# A CPU's kernels of larger or 3-D convolutions have buffers, which the profiler counts too.
small_nets = pytest.mark.parametrize("name", ["stilt", "stin", "tsm"])


def small_net(name: str, device: str = "meta") -> VideoModel:
    torch.manual_seed(0)
    with torch.device(device):
        return create_model(name, num_classes=5, flow_length=2, **NETS[name])


def clips(model: VideoModel, count: int, frames: int) -> dict[str, torch.Tensor]:
    """Inputs in the layout that training has."""
    return {
        name: torch.randn(count * frames, x.shape[2], 64, 64)
        .contiguous(memory_format=torch.channels_last)
        .unflatten(0, (count, frames))
        for name, x in model.example_inputs(frames=frames, size=64).items()
    }


def real_step(model: VideoModel, videos: int) -> tuple[int, int]:
    """A step on the CPU: bytes that autograd and the inputs keep, and the peak of all tensors."""
    put_channels_last(model.train())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        inputs = clips(model, videos, SMALL.segments)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses = video_losses(model(**inputs), torch.zeros(videos, dtype=torch.int64))
            loss = torch.stack([one.sum() for one in losses.values()]).sum()
        loss.backward()
    for tensor in inputs.values():
        keep(tensor)
    return sum(kept.values()), peak_of(profiler)


def pass_bytes(estimate: MemoryEstimate, videos: int) -> int:
    """The peak of a forward and backward pass beyond parameters, gradients and momentum."""
    state = {"parameters_bytes": 0, "gradients_bytes": 0, "optimizer_bytes": 0}
    return replace(estimate, **state, update_bytes=0).tensor_bytes(videos)


def _always(estimate: MemoryEstimate, precision: str, checkpointing: bool) -> MemoryEstimate:
    return estimate


def peak_of(profiler: profile) -> int:
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events = [event for event in results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()  # type: ignore[attr-defined]  # the stubs leave it out
        peak = max(peak, now)
    return peak


@every_net
def test_kept_activations_are_those_that_autograd_saves(name: str) -> None:
    estimate = estimate_memory(small_net(name), SMALL)
    kept, _ = real_step(small_net(name, "cpu"), SMALL.batch_size)
    of_video = estimate.inputs_bytes + estimate.activations_bytes
    assert of_video * SMALL.batch_size == pytest.approx(kept, rel=0.1)


@small_nets
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_is_the_profilers(name: str, checkpointing: bool) -> None:
    estimate = estimate_memory(small_net(name), SMALL, activation_checkpointing=checkpointing)
    model = small_net(name, "cpu")
    if checkpointing:
        recompute_activations(model)
    _, peak = real_step(model, SMALL.batch_size)
    assert pass_bytes(estimate, SMALL.batch_size) == pytest.approx(peak, rel=0.1)


def test_parameters_gradients_and_momentum_are_counted() -> None:
    model = small_net("tsn")
    estimate = estimate_memory(model, SMALL)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained < sum(p.numel() for p in model.parameters())  # partial BN
    assert estimate.gradients_bytes == estimate.optimizer_bytes == 4 * trained
    assert estimate.parameters_bytes == sum(v.nbytes for v in model.state_dict().values())
    assert estimate_memory(model, replace(SMALL, momentum=0)).optimizer_bytes == 0
    assert estimate.inputs_bytes == 4 * 3 * (3 + 4) * 64 * 64


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_between_the_ends_the_estimate_is_no_less_than_the_step_needs(precision: str) -> None:
    model = small_net("stilt")
    chord = estimate_memory(model, replace(SMALL, batch_size=32), precision=precision)
    for videos in (2, 5, 16):
        exact = estimate_memory(model, replace(SMALL, batch_size=videos), precision=precision)
        needed = exact.tensor_bytes(videos)
        assert needed <= chord.tensor_bytes(videos) <= 1.1 * needed


def test_bfloat16_and_checkpointing_each_save_memory() -> None:
    model = small_net("tsn")
    plain = estimate_memory(model, SMALL)
    half = estimate_memory(model, SMALL, precision="bfloat16")
    recomputed = estimate_memory(model, SMALL, activation_checkpointing=True)
    assert half.activations_bytes == pytest.approx(plain.activations_bytes / 2, rel=0.15)
    assert pass_bytes(recomputed, 6) < 0.5 * pass_bytes(plain, 6)
    assert estimate_memory(model, replace(SMALL, precision="bfloat16")) == half


def test_estimating_leaves_the_network_alone() -> None:
    model = small_net("tsn", "cpu").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    estimate_memory(model, SMALL, activation_checkpointing=True)
    estimate_scoring_memory(model, SMALL, precision="bfloat16")
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any("forward_stage" in vars(module) for module in model.modules())


@small_nets
def test_scoring_needs_what_the_profiler_sees(name: str) -> None:
    estimate = estimate_scoring_memory(small_net(name), SMALL)
    model = small_net(name, "cpu").eval()
    put_channels_last(model)
    with (
        torch.inference_mode(),
        profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler,
    ):
        model(**clips(model, 6, SMALL.test_segments))
    ours = pass_bytes(estimate, 6) - estimate.inputs_bytes  # those of the video's one view
    peak = peak_of(profiler)
    # A temporal shift's copy that a CPU can do without is the most of what is too much.
    assert 0.97 * peak < ours < 1.2 * peak


def test_all_views_of_a_video_are_on_the_device_while_it_is_scored() -> None:
    model = small_net("tsn")
    one = estimate_scoring_memory(model, SMALL)
    thirty = estimate_scoring_memory(model, replace(SMALL, test_clips=3, test_crops="ten"))
    assert thirty.fixed_bytes - one.fixed_bytes == 29 * one.inputs_bytes


# Of saved activations in float32, worked out apart from this code.
@pytest.mark.parametrize(
    ("space", "arm", "change", "gib"),
    [
        ("stilt", "stil-awf-simplex", {}, 63),
        ("stin", "stin", {}, 63),
        ("conv_fusion", "two-towers", {}, 68),
        ("comparators", "tsm", {}, 52),
        ("comparators", "i3d", {"flow_length": 10}, 836),
    ],
)
def test_papers_settings_need_what_was_worked_out(
    space: str, arm: str, change: dict[str, Any], gib: float
) -> None:
    training = whole_training(space, arm)
    hyperparameters = replace(training.hyperparameters, **change)
    estimate = estimate_memory(net_of(training, **change), hyperparameters)
    of_video = estimate.inputs_bytes + estimate.activations_bytes
    assert of_video * hyperparameters.batch_size / GIB == pytest.approx(gib, rel=0.03)


def affine(fixed: int, of_video: int, **more: int) -> MemoryEstimate:
    return MemoryEstimate(
        parameters_bytes=fixed, inputs_bytes=0, activations_bytes=of_video, fixed_bytes=0, **more
    )


def test_the_reserve_is_what_the_constants_say() -> None:
    estimate = affine(1000, 10, update_bytes=500)
    assert estimate.tensor_bytes(10) == 1500
    assert estimate.tensor_bytes(100) == 2000
    assert estimate.total_bytes(100) == CONTEXT_BYTES + math.ceil(2000 * (1 + FRAGMENTATION))


@pytest.mark.parametrize("world_size", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 96])
def test_the_micro_batch_fits_and_fewer_equal_passes_would_not(
    batch_size: int, world_size: int
) -> None:
    share = math.ceil(batch_size / world_size)
    for gib in range(2, 40):
        available = gib * GIB
        estimate = affine(GIB // 4, GIB // 3)
        chosen = choose_micro_batch(
            partial(_always, estimate),
            batch_size=batch_size,
            available_bytes=available,
            world_size=world_size,
        )
        assert chosen.needed_bytes == estimate.total_bytes(chosen.videos) <= available
        assert chosen.videos == math.ceil(share / chosen.accumulation_steps)
        fitting = [
            n
            for n in range(1, share + 1)
            if estimate.total_bytes(math.ceil(share / n)) <= available
        ]
        equal = [n for n in fitting if share % n == 0 and n < 2 * fitting[0]]
        assert chosen.accumulation_steps == (equal or fitting)[0]


def test_checkpointing_and_then_another_precision_come_in_only_where_needed() -> None:
    needs = {
        ("float32", False): affine(0, 8 * GIB),
        ("float32", True): affine(0, 4 * GIB),
        ("bfloat16", False): affine(0, 2 * GIB),
        ("bfloat16", True): affine(0, GIB),
    }

    def chosen(gib: float, *precisions: str) -> tuple[str, bool, int]:
        found = choose_micro_batch(
            lambda precision, checkpointing: needs[precision, checkpointing],
            batch_size=4,
            available_bytes=int(gib * GIB),
            precisions=precisions,
        )
        return found.precision, found.activation_checkpointing, found.videos

    both = ("float32", "bfloat16")
    assert chosen(40, *both) == ("float32", False, 4)
    assert chosen(10, *both) == ("float32", False, 1)
    assert chosen(9.5, *both) == ("float32", True, 1)
    assert chosen(5, *both) == ("bfloat16", False, 1)
    assert chosen(2.2, *both) == ("bfloat16", True, 1)
    message = (
        r"one video needs 5\.4 GiB .* float32 with activation checkpointing, "
        r"but the GPU has 5\.0 GiB; lower segments"
    )
    with pytest.raises(ValueError, match=message):
        chosen(5, "float32")


def test_passes_that_are_asked_for_stay_or_are_refused() -> None:
    def chosen(gib: int, steps: int) -> tuple[int, int, bool]:
        found = choose_micro_batch(
            lambda precision, checkpointing: affine(0, GIB // 2 if checkpointing else GIB),
            batch_size=8,
            available_bytes=gib * GIB,
            accumulation_steps=steps,
        )
        return found.videos, found.accumulation_steps, found.activation_checkpointing

    assert chosen(40, 4) == (2, 4, False)
    assert chosen(7, 1) == (8, 1, True)
    with pytest.raises(ValueError, match=r"8 videos a pass need 5\.4 GiB .*raise accumulation_st"):
        chosen(4, 1)


def test_scoring_takes_the_most_clips_that_fit() -> None:
    estimate = affine(0, GIB)
    sizes = [
        choose_scoring_batch(estimate, batch_size=8, available_bytes=gib * GIB)
        for gib in (3, 5, 100)
    ]
    assert sizes == [1, 3, 8]
    with pytest.raises(ValueError, match=r"one clip needs 2\.1 GiB .* lower test_segments"):
        choose_scoring_batch(estimate, batch_size=8, available_bytes=2 * GIB)


def test_passes_matter_where_a_norm_uses_their_statistics_or_dropout_draws_masks() -> None:
    def net(backbone: str, **options: Any) -> VideoModel:
        return create_model("tsn", num_classes=3, backbone=backbone, **{"dropout": 0.0, **options})

    assert passes_matter(net("resnet18"))
    assert passes_matter(net("resnet18", partial_bn=True))  # the first norm's
    assert not passes_matter(net("resnet18").eval())
    assert not passes_matter(net("small"))
    assert not passes_matter(net("vgg16"))
    assert passes_matter(net("small", dropout=0.5))
    assert not passes_matter(net("small", dropout=0.5).eval())
    assert passes_matter(nn.BatchNorm2d(2, track_running_stats=False).eval())


@cache
def trainings_of(space_name: str) -> list[tuple[str, Training]]:
    """Each arm's name and training on a real dataset, at the space's own settings."""
    space = search_spaces.get(space_name)
    plan = make_plan(
        space.arms,
        targets=[Target(dataset="d", store_fingerprint="f", split="1")],
        seeds=[0],
        settings=lambda arm, _: settings_of(arm, space.settings, space=space),
    )
    return [(row.arm.name, row.training) for row in plan.rows]


def whole_training(space: str, arm: str) -> Training:
    """An arm's training with all of its network learning."""
    [training] = [t for name, t in trainings_of(space) if name == arm]
    if "freeze_towers" not in training.options:
        return training
    return replace(training, options={**training.options, "freeze_towers": False})


def net_of(training: Training, **options: Any) -> VideoModel:
    with torch.device("meta"):
        return create_model(training.model, num_classes=400, **{**training.options, **options})


def distinct_nets(space: str) -> Iterator[Training]:
    """The space's trainings, without those whose network and clips an earlier one has too."""
    seen = set()
    for name in search_spaces.names():
        for _, training in trainings_of(name):
            h = training.hyperparameters
            options = {k: v for k, v in training.options.items() if "dropout" not in k}
            key = (training.model, str(options), h.segments, h.crop_size)
            if key not in seen and name == space:
                yield training
            seen.add(key)


@pytest.mark.slow
@pytest.mark.parametrize("space", search_spaces.names())
def test_no_arm_at_its_own_settings_needs_more_than_24_gb(space: str) -> None:
    for training in distinct_nets(space):
        # One video a pass is what every batch can be divided into.
        hyperparameters = replace(training.hyperparameters, batch_size=1, accumulation_steps=1)
        estimate = estimate_memory(net_of(training), hyperparameters)
        assert estimate.total_bytes(1) <= CARD, training


@pytest.mark.parametrize(
    ("space", "arm"), [("stilt", "stil"), ("conv_fusion", "two-towers"), ("comparators", "i3d")]
)
def test_the_chosen_micro_batch_of_a_large_arm_fits(space: str, arm: str) -> None:
    training = whole_training(space, arm)
    hyperparameters, net = training.hyperparameters, net_of(training)
    estimate = estimate_memory(net, hyperparameters)
    assert estimate.total_bytes(hyperparameters.batch_size) > CARD
    chosen = choose_micro_batch(
        lambda precision, checkpointing: estimate,
        batch_size=hyperparameters.batch_size,
        available_bytes=CARD,
    )
    exact = estimate_memory(net, replace(hyperparameters, batch_size=chosen.videos))
    assert CARD / 2 < chosen.needed_bytes <= CARD
    assert 0.9 * chosen.needed_bytes < exact.total_bytes(chosen.videos) < 1.001 * CARD
    assert chosen.videos * chosen.accumulation_steps == hyperparameters.batch_size


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gpu_needs_what_was_estimated(
    precision: Literal["float32", "bfloat16"], checkpointing: bool
) -> None:
    hyperparameters = Hyperparameters(batch_size=8, precision=precision)
    with torch.device("meta"):
        meta = create_model("tsn", num_classes=101, backbone="resnet50")
    real = create_model("tsn", num_classes=101, backbone="resnet50")
    measured = measure_memory(real, hyperparameters, activation_checkpointing=checkpointing)
    estimate = estimate_memory(meta, hyperparameters, activation_checkpointing=checkpointing)
    needed = measured.tensor_bytes(8)
    assert needed < estimate.total_bytes(8)
    assert estimate.tensor_bytes(8) == pytest.approx(needed, rel=0.25)


def test_adamw_keeps_two_moments_and_an_average_the_network_twice() -> None:
    net = small_net("tsm")
    plain, adamw, average = (
        estimate_memory(net, replace(SMALL, batch_size=1, **change))
        for change in ({}, {"optimizer": "adamw", "momentum": 0.0}, {"ema_decay": 0.9})
    )
    assert adamw.optimizer_bytes == 2 * plain.optimizer_bytes == 2 * plain.gradients_bytes
    assert average.parameters_bytes == 2 * plain.parameters_bytes
