"""What every arm of every space must allow: that all of its network learns, on any processes."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

import search_spaces
from models import ModelOutput, VideoModel, create_model, make_options
from search_spaces import Space
from study.plan import settings_of
from study.training.hyperparameters import Hyperparameters

Network = tuple[str, dict[str, Any], int]
"""A model's name, its options, and the frames of its clips."""


def _networks(spaces: Iterator[Space], *, default: bool = False) -> dict[str, Network]:
    """Each network once, by the name of the first arm that has it."""
    found: dict[str, Network] = {}
    seen: list[tuple[str, dict[str, Any]]] = []
    for space in spaces:
        for arm in space.arms:
            settings = settings_of(arm, space.settings, space=space)
            options = asdict(make_options(arm.model, settings.options))
            frames = Hyperparameters.of(settings.hyperparameters).segments
            if (arm.model, options) not in seen and (arm.default or not default):
                seen.append((arm.model, options))
                found[f"{space.name}-{arm.name}"] = (arm.model, options, frames)
    return found


def _spaces(variant: str = "") -> Iterator[Space]:
    for name in search_spaces.names():
        space = search_spaces.get(name)
        yield space.on(variant)


REAL = _networks(_spaces())
SMALL = _networks(_spaces("embedded"), default=True)


def _losses(output: ModelOutput) -> Tensor:
    named = (output.logits, output.auxiliary_logits, output.auxiliary_losses)
    return torch.stack([x.float().mean() for group in named for x in group.values()]).sum()


def _parameters_that_reach(loss: Tensor) -> set[int]:
    """The identities of all tensors that a backward pass gives gradients to."""
    reached: set[int] = set()
    seen, waiting = set(), [loss.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            reached.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return reached


def _build(network: Network) -> VideoModel:
    model, options, _ = network
    return create_model(model, num_classes=5, **options)


@pytest.mark.parametrize("network", [pytest.param(n, id=key) for key, n in REAL.items()])
def test_every_parameter_that_is_trained_gets_a_gradient(network: Network) -> None:
    with torch.device("meta"):  # at its real size, of which nothing is computed
        net = _build(network)
        output = net(**net.example_inputs(batch_size=2, frames=max(network[2], net.min_frames)))
    reached = _parameters_that_reach(_losses(output))
    trained = {name: p for name, p in net.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if id(p) not in reached] == []


# A 1×1 convolution of stride 2 and 3 or 4 input channels in the channels-last format: torch 2.14's
# backward pass on a CPU may write beyond its memory.
@pytest.mark.parametrize("network", [pytest.param(n, id=k) for k, n in (REAL | SMALL).items()])
def test_no_network_has_the_layer_whose_backward_pass_is_unsafe(network: Network) -> None:
    with torch.device("meta"):
        net = _build(network)
    unsafe = [
        name
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Conv3d)
        and set(layer.kernel_size) == {1}
        and max(layer.stride) > 1
        and layer.in_channels <= 4
    ]
    assert unsafe == []


def _train_all_in_one_of_two_processes(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    failed = []
    for key, network in SMALL.items():
        torch.manual_seed(0)
        net = _build(network)
        clips = net.example_inputs(batch_size=2, frames=max(network[2], net.min_frames), size=32)
        parallel = DistributedDataParallel(net)
        try:
            for _ in range(2):  # the second pass finds what the first didn't reach
                _losses(parallel(**clips)).backward()
        except RuntimeError as error:
            failed.append(f"{key}: {error}")
    (folder / f"failed-{rank}").write_text("\n".join(failed))
    dist.destroy_process_group()


def test_two_processes_train_every_arm_of_the_embedded_dataset(tmp_path: Path) -> None:
    spawn(_train_all_in_one_of_two_processes, (tmp_path,), nprocs=2)
    assert [(tmp_path / f"failed-{rank}").read_text() for rank in (0, 1)] == ["", ""]
