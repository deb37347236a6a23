import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from study.data.store.remote import joined_uri
from study.training import checkpoint
from study.training.checkpoint import (
    DamagedCheckpointError,
    checkpoint_exists,
    delete_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_aside,
    trained_state,
)
from tests.data.s3_server import s3_server


class _Bomb:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("exploded",)


def test_a_checkpoint_at_an_address_is_saved_loaded_set_aside_and_deleted() -> None:
    with s3_server() as server:
        place = joined_uri(server.uri("bucket/results"), "checkpoints/one.pt")
        key = "results/checkpoints/one.pt"
        assert not checkpoint_exists(place)
        delete_checkpoint(place)
        with pytest.raises(FileNotFoundError):
            load_checkpoint(place)
        for epoch in (1, 2):
            save_checkpoint(place, {"epoch": epoch, "w": torch.arange(3)})
            assert load_checkpoint(place)["epoch"] == epoch
        assert checkpoint_exists(place)
        server.objects[key] = server.objects[key][:-1]
        with pytest.raises(DamagedCheckpointError):
            load_checkpoint(place)
        assert set_aside(place) == "one.pt.damaged"
        assert not checkpoint_exists(place)
        assert f"{key}.damaged" in server.objects
        save_checkpoint(place, {"epoch": 3})
        delete_checkpoint(place)
        assert not checkpoint_exists(place)


def test_a_save_at_an_address_that_fails_leaves_the_former_checkpoint() -> None:
    with s3_server() as server:
        place = joined_uri(server.uri("bucket/results"), "one.pt")
        save_checkpoint(place, {"epoch": 1})
        server.refused = "one"
        with pytest.raises(OSError, match="ACCESS_DENIED"):
            save_checkpoint(place, {"epoch": 2})
        assert load_checkpoint(place) == {"epoch": 1}


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "new" / "one.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3)}, "history": [{"loss": 0.1, "x": None}]})
    state = load_checkpoint(path)
    assert torch.equal(state["model"]["w"], torch.arange(3))
    assert state["history"] == [{"loss": 0.1, "x": None}]


def test_a_full_disk_names_its_folder_and_leaves_the_former_file(small_disk: Path) -> None:
    path = small_disk / "one.pt"
    save_checkpoint(path, {"epoch": 1})
    with pytest.raises(OSError, match=r"no space left in .*/disk to write one\.pt") as error:
        save_checkpoint(path, {"model": torch.zeros(1 << 20)})
    assert error.value.errno == errno.ENOSPC
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(small_disk.iterdir()) == [path]


def test_a_write_that_fails_within_torch_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "one.pt"
    save_checkpoint(path, {"epoch": 1})

    def full(self: object, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint._HashedFile, "write", full)
    with pytest.raises(OSError, match=f"no space left in {tmp_path} to write"):
        save_checkpoint(path, {"epoch": 2})
    assert load_checkpoint(path) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


Mutation = Callable[[random.Random, bytearray], None]


def _flip_bits(rng: random.Random, content: bytearray) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _flip_the_end(rng: random.Random, content: bytearray) -> None:
    content[-rng.randint(1, 64)] ^= 1 << rng.randrange(8)


def _truncate(rng: random.Random, content: bytearray) -> None:
    del content[rng.choice([rng.randrange(len(content)), len(content) - rng.randint(1, 100)]) :]


def _append(rng: random.Random, content: bytearray) -> None:
    content += rng.randbytes(rng.choice([1, 64, 4096]))


def _insert(rng: random.Random, content: bytearray) -> None:
    at = rng.randrange(len(content))
    content[at:at] = rng.randbytes(rng.choice([1, 64]))


def _zero_a_block(rng: random.Random, content: bytearray) -> None:
    at, size = rng.randrange(len(content)), rng.choice([16, 512, 4096])
    content[at : at + size] = bytes(len(content[at : at + size]))


def _swap_blocks(rng: random.Random, content: bytearray) -> None:
    size = rng.choice([16, 512, 4096])
    a, b = rng.sample(range(0, len(content) - size, size), 2)
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]


MUTATIONS: list[Mutation] = [
    _flip_bits,
    _flip_the_end,
    _truncate,
    _append,
    _insert,
    _zero_a_block,
    _swap_blocks,
]


@pytest.mark.parametrize("mutate", MUTATIONS)
def test_a_checkpoint_with_any_byte_changed_lost_or_added_is_refused(
    tmp_path: Path, mutate: Mutation
) -> None:
    path = tmp_path / "one.pt"
    model = torch.nn.Sequential(torch.nn.Linear(40, 40), torch.nn.BatchNorm1d(40))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.randn(4, 40)).sum().backward()
    optimizer.step()
    save_checkpoint(path, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    whole = path.read_bytes()
    for seed in range(60):
        mutated = bytearray(whole)
        mutate(random.Random(seed), mutated)
        if mutated == whole:  # zeros over zeros, or equal blocks swapped
            continue
        path.write_bytes(mutated)
        with pytest.raises(DamagedCheckpointError, match=r"one\.pt is damaged: .*; move it away"):
            load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)["optimizer"] is not None


@pytest.mark.parametrize("content", [b"", b"no checkpoint", bytes(64), bytes(1000)])
def test_another_file_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "one.pt").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match="damaged"):
        load_checkpoint(tmp_path / "one.pt")


def test_nothing_in_a_checkpoint_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(Path("bomb.pt"), {"model": _Bomb()})
    with pytest.raises(DamagedCheckpointError, match="holds more than tensors"):
        load_checkpoint(Path("bomb.pt"))
    assert not Path("exploded").exists()


def test_the_trained_network_is_the_moving_average_where_there_is_one(tmp_path: Path) -> None:
    net = torch.nn.Linear(2, 1)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    average.update_parameters(net)
    with torch.no_grad():
        net.weight += 1
    average.update_parameters(net)
    plain = {"model": net.state_dict()}
    save_checkpoint(tmp_path / "plain.pt", plain)
    save_checkpoint(tmp_path / "averaged.pt", {**plain, "averaged": average.state_dict()})
    loaded = torch.nn.Linear(2, 1)
    loaded.load_state_dict(trained_state(load_checkpoint(tmp_path / "plain.pt")))
    assert torch.equal(loaded.weight, net.weight)
    loaded.load_state_dict(trained_state(load_checkpoint(tmp_path / "averaged.pt")))
    averaged = average.module.state_dict()
    assert torch.equal(loaded.weight, averaged["weight"])
    assert not torch.equal(loaded.weight, net.weight)
