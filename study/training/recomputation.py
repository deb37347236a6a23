"""Activation checkpointing: activations that are computed again instead of kept.

Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016. A network is
cut into segments; of each only the input is kept, and the backward pass runs it once more.
"""

import contextlib
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

__all__ = ["recompute_activations"]


def recompute_activations(model: nn.Module) -> None:
    """Makes a network compute its activations again in the backward pass; in place.

    A segment is a stage of every backbone (every module with ``forward_stage``), and elsewhere a
    layer or block of an ``nn.Sequential`` together with the norms, activations and poolings that
    follow it. Modules, parameters and the keys of the state dict stay as they are. The result
    stays the same: dropout draws the same masks again, and running statistics are updated once.

    Args:
        model: The network. One that has been treated already stays as it is.
    """
    for module in _outermost(model):
        if isinstance(module, nn.Sequential):
            vars(module)["forward"] = partial(_run_sequential, module)
        else:
            vars(module)["forward_stage"] = partial(_run_stage, module)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    """The modules to cut into segments, none of which contains another."""
    if hasattr(module, "forward_stage") or type(module) is nn.Sequential:
        yield module
    else:
        for child in module.children():
            yield from _outermost(child)


def _run_stage(owner: nn.Module, stage: str, x: Tensor) -> Tensor:
    run = type(owner).forward_stage  # type: ignore[attr-defined]
    return _run_again(partial(run, owner), [owner], stage, x)


def _run_sequential(net: nn.Sequential, x: Tensor) -> Tensor:
    for segment in _segments(net):
        x = _run_again(nn.Sequential(*segment), segment, x)
    return x


def _segments(net: nn.Sequential) -> list[list[nn.Module]]:
    """Its layers, each with what follows: that may work in place, and has little to compute."""
    segments: list[list[nn.Module]] = []
    for layer in _flatten(net):
        heavy = any(parameter.ndim > 1 for parameter in layer.parameters())
        if heavy or not segments:
            segments.append([])
        segments[-1].append(layer)
    return segments


def _flatten(net: nn.Sequential) -> Iterator[nn.Module]:
    for layer in net:
        if type(layer) is nn.Sequential:
            yield from _flatten(layer)
        else:
            yield layer


def _run_again(run: Any, modules: Iterable[nn.Module], *inputs: Any) -> Tensor:
    """Runs a segment; in training, so that the backward pass does it again."""
    if not torch.is_grad_enabled():
        return cast(Tensor, run(*inputs))
    norms = [m for module in modules for m in module.modules() if isinstance(m, _BatchNorm)]

    def contexts() -> tuple[Any, Any]:
        return contextlib.nullcontext(), _statistics_kept(norms)

    return cast(Tensor, checkpoint(run, *inputs, use_reentrant=False, context_fn=contexts))


@contextlib.contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch normalisation that leaves its running statistics as they are."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches
