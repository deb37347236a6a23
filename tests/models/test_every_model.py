"""What every registered network must do, with the options that its own test gives.

See ``configuration.py`` for what a new network's test holds.
"""

import copy
import importlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, fields
from itertools import combinations, product
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import (
    ModelOutput,
    VideoModel,
    create_model,
    list_models,
    make_options,
    model_options,
    options_without_effect,
)
from models.maps import clip_maps
from tests.models.configuration import Configuration

CLASSES = 5
SIZE = 64  # height and width of a frame in pixels
ODD_SIZE = (61, 75)  # no stride divides them


def _configurations() -> dict[str, Configuration]:
    """What the tests of the networks say of them, by the network's name."""
    found: dict[str, Configuration] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path != Path(__file__):
            module = importlib.import_module(f"tests.models.{path.stem}")
            found |= getattr(module, "CONFIGURATIONS", {})
    return found


CONFIGURATIONS = _configurations()
every_model = pytest.mark.parametrize("name", sorted({*list_models(), *CONFIGURATIONS}))


def _build(name: str, *, seed: int = 0) -> VideoModel:
    torch.manual_seed(seed)
    return create_model(name, num_classes=CLASSES, **CONFIGURATIONS[name].options)


def _clips(
    name: str,
    model: VideoModel,
    *,
    clips: int = 2,
    frames: int | None = None,
    size: tuple[int, int] | None = None,
    seed: int = 1,
) -> dict[str, Tensor]:
    configuration = CONFIGURATIONS[name]
    height, width = size or (SIZE, SIZE)
    generator = torch.Generator().manual_seed(seed)
    shape = (clips, max(frames or configuration.frames, model.min_frames))
    return {
        stream: torch.randn(
            *shape, model.input_channels(stream), height, width, generator=generator
        )
        for stream in model.inputs
    }


def _small_clips(name: str, model: VideoModel, *, clips: int = 2) -> dict[str, Tensor]:
    """Clips of half the height and width, where their content isn't compared with anything."""
    side = max(SIZE // 2, model.min_size)
    return _clips(name, model, clips=clips, size=(side, side))


def _option_names(name: str) -> set[str]:
    return {field.name for field in fields(model_options(name))}


def _tensors(output: ModelOutput) -> dict[str, Tensor]:
    parts = ("logits", "features", "attention", "auxiliary_logits", "auxiliary_losses")
    return {f"{part}/{k}": v for part in parts for k, v in getattr(output, part).items()}


def _loss(output: ModelOutput, labels: Tensor) -> Tensor:
    logits = [*output.logits.values(), *output.auxiliary_logits.values()]
    losses = [F.cross_entropy(x.float(), labels) for x in logits]
    auxiliary = [x.float().mean() for x in output.auxiliary_losses.values()]
    return sum(losses, torch.zeros(())) + sum(auxiliary, torch.zeros(()))


def _without_dropout(model: VideoModel) -> VideoModel:
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    return model


def _assert_same(first: ModelOutput, second: ModelOutput, **tolerance: Any) -> None:
    ours, theirs = _tensors(first), _tensors(second)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], **tolerance)


def test_every_registered_model_has_a_configuration() -> None:
    assert sorted(CONFIGURATIONS) == list_models(), "its test must hold CONFIGURATIONS"


@every_model
def test_outputs_have_the_shapes_that_they_promise(name: str) -> None:
    model = _build(name)
    output = model(**_clips(name, model, clips=3))
    assert tuple(output.logits) == model.streams
    assert tuple(output.features) == model.streams
    for logits in (*output.logits.values(), *output.auxiliary_logits.values()):
        assert logits.shape == (3, CLASSES)
    for feature in output.features.values():
        assert feature.ndim == 2
        assert len(feature) == 3
    for weights in output.attention.values():
        assert weights.ndim == 2
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
    for penalty in output.auxiliary_losses.values():
        assert penalty.shape == (3,)
    assert all(tensor.isfinite().all() for tensor in _tensors(output).values())


@every_model
def test_backward_reaches_every_parameter_that_requires_it(name: str) -> None:
    model = _without_dropout(_build(name))
    # Some gates start at zero and let nothing through before the first step.
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    clips, labels = _clips(name, model, clips=4), torch.arange(4)
    for _ in range(2):
        optimiser.zero_grad()
        _loss(model(**clips), labels).backward()
        optimiser.step()
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    unreached = [k for k, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert unreached == []


@every_model
def test_stream_parameters_hold_each_parameter_once(name: str) -> None:
    model = _build(name)
    groups = model.stream_parameters()
    assert set(groups) <= {*model.streams, "shared"}
    together = sorted(id(parameter) for group in groups.values() for parameter in group)
    assert together == sorted(map(id, model.parameters()))


@every_model
def test_independent_streams_share_no_gradient(name: str) -> None:
    options = dict(CONFIGURATIONS[name].options)
    if "streams" in _option_names(name):
        options |= {"streams": ("spatial", "temporal"), "flow_length": 2}
    model = create_model(name, num_classes=CLASSES, **options)
    interacts = CONFIGURATIONS[name].interacts
    assert model.independent_streams is not bool(interacts)
    if interacts:
        pytest.skip(f"its streams interact: {interacts}")
    assert len(model.streams) == 2
    output, groups = model(**_clips(name, model)), model.stream_parameters()
    assert "shared" not in groups
    for stream in model.streams:
        others = [p for other, group in groups.items() if other != stream for p in group]
        for gradient in torch.autograd.grad(
            output.logits[stream].sum(), others, retain_graph=True, allow_unused=True
        ):
            assert gradient is None


@pytest.mark.parametrize(
    "name",
    [name for name in sorted(CONFIGURATIONS) if "streams" in _option_names(name)],
)
def test_an_independent_stream_has_the_same_gradients_alone_dropout_included(name: str) -> None:
    if CONFIGURATIONS[name].interacts:
        pytest.skip("its streams interact")

    def build(*streams: str) -> VideoModel:
        options = {**CONFIGURATIONS[name].options, "streams": streams, "flow_length": 2}
        options |= {option: 0.5 for option in _option_names(name) if "dropout" in option}
        torch.manual_seed(0)
        return create_model(name, num_classes=CLASSES, **options)

    def gradients(model: VideoModel) -> dict[str, Tensor]:
        for seed in (3, 4):
            model.seed_forward(seed)
            _loss(model(**clips), torch.arange(2)).backward()
        return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}

    both = build("spatial", "temporal")
    dropped = [layer for layer in both.modules() if isinstance(layer, nn.Dropout)]
    assert any(layer.p == 0.5 for layer in dropped), "it draws masks"
    clips = _small_clips(name, both)
    together = gradients(both)
    found: set[str] = set()
    for stream in ("spatial", "temporal"):
        alone = gradients(build(stream))
        assert all(torch.equal(together[key], gradient) for key, gradient in alone.items())
        found |= alone.keys()
    assert found == together.keys()


@every_model
def test_evaluation_is_deterministic(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model)
    with torch.no_grad():
        _assert_same(model(**clips), model(**clips), rtol=0, atol=0)


@every_model
def test_a_clip_has_the_same_result_in_any_batch(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model, clips=3)
    with torch.no_grad():
        together = _tensors(model(**clips))
        alone = _tensors(model(**{k: x[1:2] for k, x in clips.items()}))
    for key, value in together.items():
        torch.testing.assert_close(value[1:2], alone[key], rtol=1e-4, atol=1e-5)


@every_model
def test_the_same_seed_gives_the_same_network(name: str) -> None:
    first, second = _build(name).state_dict(), _build(name).state_dict()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@every_model
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.15), (torch.float16, 0.02)], ids=str
)
def test_half_precision_is_finite_and_near_float32(
    name: str, dtype: torch.dtype, tolerance: float
) -> None:
    model = _build(name).eval()
    clips = _small_clips(name, model)
    with torch.no_grad():
        full = _tensors(model(**clips))
        with torch.autocast("cpu", dtype=dtype):
            mixed = _tensors(model(**clips))
        half = model.to(dtype)(**{k: x.to(dtype) for k, x in clips.items()})
    for key, value in _tensors(half).items():
        assert value.isfinite().all(), key
        assert mixed[key].isfinite().all(), key
        scale = full[key].abs().max().item() + 1e-3
        assert (mixed[key].float() - full[key]).abs().max().item() < tolerance * scale, key


@every_model
def test_a_state_dict_round_trip_changes_nothing(name: str) -> None:
    model, other = _build(name).eval(), _build(name, seed=1).eval()
    other.load_state_dict(model.state_dict(), strict=True)
    clips = _clips(name, model)
    with torch.no_grad():
        _assert_same(model(**clips), other(**clips), rtol=0, atol=0)


@every_model
def test_odd_sizes_the_smallest_size_and_a_single_frame_work(name: str) -> None:
    model = _build(name).eval()
    fewest = CONFIGURATIONS[name].fewest_frames
    assert model.min_frames == fewest
    for clips in (
        _clips(name, model, size=ODD_SIZE),
        _clips(name, model, size=(model.min_size, model.min_size)),
        _clips(name, model, frames=fewest, clips=1),
    ):
        with torch.no_grad():
            output = model(**clips)
        assert all(tensor.isfinite().all() for tensor in _tensors(output).values())


@every_model
def test_wrong_inputs_are_refused_by_name(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model)
    for stream, x in clips.items():
        few = model.min_frames - 1
        small = x[..., : model.min_size - 1]
        for wrong in (None, x[:, :, :-1], x[0], x[:, :few], small, x.byte()):
            with pytest.raises(ValueError, match=f"model '{name}' takes .*{stream}.*(got|missing)"):
                model(**{**clips, stream: wrong})
    if len(clips) == 2:
        rgb, flow = clips["rgb"], clips["flow"]
        for wrong in (flow[1:], torch.cat([flow, flow], dim=1), flow[..., 1:]):
            with pytest.raises(ValueError, match=f"model '{name}' takes rgb and flow of the"):
                model(rgb, wrong)


@every_model
def test_wrong_options_are_refused_by_name(name: str) -> None:
    for wrong, message in (
        ({"no_such_option": 1}, "unknown options no_such_option; there are "),
        ({"dropout": 1.5}, "dropout must be .* of at least 0 and below 1, got 1.5"),
        ({"dropout": "half"}, "dropout must be a number, got 'half'"),
        ({"flow_length": 0}, "flow_length must be a whole number of at least 1, got 0"),
        ({"backbone": "alexnet"}, "backbone must be one of .* got 'alexnet'"),
    ):
        if not set(wrong) <= {*_option_names(name), "no_such_option"}:
            continue  # a 3-D network is its own backbone
        with pytest.raises(ValueError, match=f"model '{name}': {message}"):
            create_model(name, num_classes=CLASSES, **wrong)


@every_model
def test_eight_clips_are_learned_by_heart(name: str) -> None:
    model = _without_dropout(_build(name))
    clips = _small_clips(name, model, clips=8)
    labels = torch.arange(8) % CLASSES
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(60):
        output = model(**clips)
        if all((x.argmax(dim=1) == labels).all() for x in output.logits.values()):
            return
        optimiser.zero_grad()
        _loss(output, labels).backward()
        optimiser.step()
    pytest.fail(f"after 60 steps the logits still miss: {_loss(output, labels).item():.3f}")


@every_model
def test_ten_steps_have_the_golden_losses(name: str) -> None:
    """In double precision: single precision's rounding grows to 30 % in ten steps of a deep net,
    and differs with the processor and the number of threads."""
    model = _without_dropout(_build(name)).double()
    clips = {stream: x.double() for stream, x in _clips(name, model, clips=4).items()}
    labels = torch.arange(4)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    losses = []
    for _ in range(10):
        loss = _loss(model(**clips), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    golden = CONFIGURATIONS[name].golden
    found = tuple(round(loss, 6) for loss in losses)
    assert losses == pytest.approx(golden, rel=1e-5, abs=2e-6), f"golden={found}"
    assert losses[-1] < losses[0]


@every_model
def test_a_deep_copy_is_a_network_of_its_own(name: str) -> None:
    model = _build(name).eval()
    twin = copy.deepcopy(model)
    clips = _clips(name, model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
        before = model(**clips)
        _assert_same(before, model(**clips), rtol=0, atol=0)
    assert any(parameter.any() for parameter in model.parameters())


@every_model
def test_export_keeps_the_result(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model)
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        model, (), clips, dynamic_shapes={stream: {0: batch} for stream in clips}
    )
    other = _clips(name, model, clips=3, seed=2)
    with torch.no_grad():
        _assert_same(program.module()(**other), model(**other), rtol=1e-4, atol=1e-5)


@pytest.fixture
def compiler() -> Iterator[None]:
    """torch.compile without what it knows of other networks: they share code, which it compiles
    for eight of them only."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@every_model
@pytest.mark.usefixtures("compiler")
def test_compiling_keeps_the_result(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model)
    # The whole graph is captured and lowered; building kernels for each network takes minutes,
    # so the next test does it for a few.
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        _assert_same(compiled(**clips), model(**clips), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
@pytest.mark.skipif(not shutil.which("c++"), reason="no C++ compiler to build kernels with")
@pytest.mark.parametrize("name", ["stilt", "stin"])
def test_compiled_kernels_give_the_result(name: str) -> None:
    model = _build(name).eval()
    clips = _clips(name, model)
    compiled = torch.compile(model, fullgraph=True)
    with torch.no_grad():
        _assert_same(compiled(**clips), model(**clips), rtol=1e-3, atol=1e-4)


STREAMS = (("spatial",), ("temporal",), ("spatial", "temporal"))
WITH_UNUSED_OPTIONS = [
    name for name in list_models() if hasattr(model_options(name), "without_effect")
]


def _choices(name: str, field: str) -> tuple[Any, ...]:
    """Values of an option that decides over others."""
    kind = get_type_hints(model_options(name))[field]
    if field == "streams":
        return STREAMS
    if field == "levels":
        return ((), None)
    if kind is bool:
        return (False, True)
    return get_args(kind) if get_origin(kind) is Literal else ()


def _other_value(name: str, field: str, value: Any) -> Any:
    if several := [one for one in _choices(name, field) if one != value]:
        return several[0]
    if isinstance(value, tuple):
        return (*value, 7)
    return value / 2 if isinstance(value, float) else value + 1


def _variants(name: str) -> Iterator[dict[str, Any]]:
    """The configuration's options with up to two of its choices made otherwise."""
    options = asdict(make_options(name, CONFIGURATIONS[name].options))
    decided = [field.name for field in fields(model_options(name)) if _choices(name, field.name)]
    for count in range(3):
        for changed in combinations(decided, count):
            for values in product(*(_choices(name, field) for field in changed)):
                yield options | dict(zip(changed, values, strict=True))


def _builds(name: str, options: dict[str, Any]) -> bool:
    try:
        with torch.device("meta"):
            create_model(name, num_classes=CLASSES, **options)
    except ValueError:
        return False
    return True


def _cases() -> Iterator[Any]:
    """For each option without effect some variant of the options in which it has none."""
    for name in WITH_UNUSED_OPTIONS:
        seen: set[frozenset[str]] = set()
        for options in _variants(name):
            try:
                unused = options_without_effect(name, options)
            except ValueError:
                continue
            if not unused or unused in seen or not _builds(name, options):
                continue
            seen.add(unused)
            yield pytest.param(name, options, id=f"{name}-{'-'.join(sorted(unused))}")


def _network(name: str, options: dict[str, Any]) -> VideoModel:
    torch.manual_seed(0)
    return create_model(name, num_classes=CLASSES, **options).eval()


def test_some_options_of_some_models_have_no_effect() -> None:
    assert {"stilt", "stin", "conv_fusion", "cstm", "attention_consistency"} <= set(
        WITH_UNUSED_OPTIONS
    )


@pytest.mark.parametrize(("name", "options"), list(_cases()))
def test_networks_that_differ_in_options_without_effect_are_equal(
    name: str, options: dict[str, Any]
) -> None:
    first = _network(name, options)
    clips = _clips(name, first)
    for field in options_without_effect(name, options):
        changed = options | {field: _other_value(name, field, options[field])}
        if not _builds(name, changed):
            continue  # refused beside the others
        second = _network(name, changed)
        ours, theirs = first.state_dict(), second.state_dict()
        assert ours.keys() == theirs.keys(), field
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), field
        with torch.no_grad():
            _assert_same(first(**clips), second(**clips), rtol=0, atol=0)


@every_model
def test_every_stream_has_maps_of_where_it_looks(name: str) -> None:
    model = _build(name).eval()
    inputs = _clips(name, model, clips=1)
    trained = [parameter.requires_grad for parameter in model.parameters()]
    before = model(**inputs)
    maps = clip_maps(model, inputs, 1)
    assert tuple(maps.grad_cam) == model.streams
    for found in maps.grad_cam.values():
        assert found.ndim == 3
        assert found[0].numel() > 1
        assert found.min() >= 0
        assert found.max() in (0, 1)
    for stream, weights in maps.attention.items():
        torch.testing.assert_close(weights.flatten(), before.attention[stream][0])
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    _assert_same(model(**inputs), before, rtol=0, atol=0)
