"""Random numbers of a network's forward pass: each stream draws from a sequence of its own.

With one sequence for all, a stream's dropout masks would depend on what the others drew before it,
and a stream would train otherwise with others than alone.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["StreamRandomness"]


class StreamRandomness:
    """Gives the modules of each stream the stream's own random sequence while they train.

    Dropout and anything else that draws from torch's generators within such a module's call takes
    part; what belongs to no single stream draws from the sequence that all share.

    Args:
        modules: By stream, the modules that are its alone, none of which contains another.
    """

    def __init__(self, modules: Mapping[str, Sequence[nn.Module]]) -> None:
        self._states: dict[str, list[Tensor]] = {stream: [] for stream in modules}
        self._generators: list[torch.Generator] = []
        self._outer: list[list[Tensor]] = []
        # Not as decorators: these would import torch's compiler, seconds of it, with this module.
        enter, leave = (
            torch.compiler.disable(hook)
            for hook in (StreamRandomness._enter, StreamRandomness._leave)
        )
        for stream, owned in modules.items():
            for module in owned:
                module.register_forward_pre_hook(partial(enter, self, stream))
                module.register_forward_hook(partial(leave, self, stream))

    def seed(self, seed: int, device: torch.device) -> None:
        """Begins every sequence again, each at its own place.

        Args:
            seed: What the sequences depend on, in addition to the streams' names.
            device: Where the network draws, in addition to the CPU.
        """
        self._outer.clear()  # a forward pass that failed may have left its own there
        self._generators = [torch.default_generator]
        if device.type == "cuda":
            index = torch.cuda.current_device() if device.index is None else device.index
            self._generators.append(torch.cuda.default_generators[index])
        for stream in self._states:
            self._begin(zlib.crc32(f"{seed}/{stream}".encode()))
            self._states[stream] = self._read()
        self._begin(seed)

    def _enter(self, stream: str, module: nn.Module, inputs: Any) -> None:
        if module.training:
            self._outer.append(self._read())
            self._write(self._states[stream])

    def _leave(self, stream: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if module.training:
            self._states[stream] = self._read()
            self._write(self._outer.pop())

    def _begin(self, seed: int) -> None:
        for generator in self._generators:
            generator.manual_seed(seed)

    def _read(self) -> list[Tensor]:
        return [generator.get_state() for generator in self._generators]

    def _write(self, states: Sequence[Tensor]) -> None:
        for generator, state in zip(self._generators, states, strict=True):
            generator.set_state(state)
