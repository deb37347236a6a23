"""How the processes of one training on this machine find each other, unseen by other machines."""

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.torch.config import (
    _set_torch_distributed_env_vars,
    _setup_torch_process_group,
    _TorchBackend,
)

__all__ = ["MeetInFile"]


@dataclass
class MeetInFile(TorchConfig):
    """Has workers of one machine meet in a file.

    By itself the first opens a port for it, to which every machine that reaches this one may
    connect; torch can't bind that to the loopback.

    Attributes:
        folder: Where the file is made: a new one for each start of the workers.
    """

    folder: str = ""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """What starts and ends the workers' process group."""
        return _FileBackend


class _FileBackend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: MeetInFile) -> None:
        worker_group.execute(_set_torch_distributed_env_vars)
        meeting = Path(backend_config.folder) / f"meeting-{secrets.token_hex(8)}"
        started = [
            worker_group.execute_single_async(
                rank,
                _setup_torch_process_group,
                backend=backend_config.backend,
                world_rank=rank,
                world_size=len(worker_group),
                init_method=meeting.as_uri(),
                timeout_s=backend_config.timeout_s,
            )
            for rank in range(len(worker_group))
        ]
        ray.get(started)
