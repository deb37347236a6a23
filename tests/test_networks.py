"""Trained networks as files of the results."""

from pathlib import Path
from typing import Any

import pytest
import torch

from models import create_model
from study.data.store.settings import StoreSettings
from study.networks import Network, kept_networks, read_network, write_network
from study.results.store import DamagedResultError, ResultStore
from study.training.hyperparameters import Hyperparameters


def network_of(model: str = "tsn", **options: Any) -> Network:
    torch.manual_seed(3)
    options = {"backbone": "small", "flow_length": 2, **options}
    net = create_model(model, num_classes=3, **options)
    return Network(
        training_id="a1",
        model=model,
        options=options,
        hyperparameters=Hyperparameters(segments=2, flow_length=2, scales=(1.0, 0.5)),
        classes=("a", "ü", "c"),
        flip_classes=(1, 0, 2),
        store=StoreSettings(dataset="mine", short_side=32),
        state=net.state_dict(),
    )


BOTH = ("spatial", "temporal")


def test_a_network_is_read_as_it_was_written(tmp_path: Path) -> None:
    results, network = ResultStore(tmp_path), network_of(streams=BOTH)
    assert read_network(results, "a1") is None
    write_network(results, network)
    found = read_network(results, "a1")
    assert found is not None
    for name in ("training_id", "model", "hyperparameters", "classes", "flip_classes", "store"):
        assert getattr(found, name) == getattr(network, name)
    assert found.state.keys() == network.state.keys()
    assert all(torch.equal(found.state[name], network.state[name]) for name in found.state)
    (file,) = (tmp_path / "networks").iterdir()
    assert kept_networks(results) == {"a1": file.stat().st_size}
    clips = found.build().example_inputs(frames=2, size=32)
    net = create_model("tsn", num_classes=3, **network.options).eval()
    net.load_state_dict(network.state)
    assert torch.equal(found.build()(**clips).logits["spatial"], net(**clips).logits["spatial"])


@pytest.mark.parametrize("flaw", ["a byte", "cut", "empty"])
def test_a_damaged_network_is_named(tmp_path: Path, flaw: str) -> None:
    results = ResultStore(tmp_path)
    write_network(results, network_of())
    (file,) = (tmp_path / "networks").iterdir()
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes({"a byte": bytes(content), "cut": bytes(content[:-9]), "empty": b""}[flaw])
    with pytest.raises(DamagedResultError, match=r"networks/a1\.safetensors is damaged"):
        read_network(results, "a1")


def test_weights_of_another_network_are_refused() -> None:
    network = network_of()
    state = {name: value for name, value in network.state.items() if "head" not in name}
    with pytest.raises(ValueError, match="training a1 doesn't fit model 'tsn' as it is now"):
        Network(**{**vars(network), "state": state}).build()


def test_a_stream_that_trains_apart_gives_alone_what_it_gives_with_the_other() -> None:
    network = network_of(streams=BOTH)
    assert network.of_streams(BOTH) is network
    alone = network.of_streams(["temporal"])
    assert (network.inputs, alone.inputs) == (("rgb", "flow"), ("flow",))
    clips = network.build().example_inputs(frames=2, size=32)
    with torch.inference_mode():
        expected = network.build()(**clips).logits["temporal"]
        found = alone.build()(flow=clips["flow"]).logits
    assert found.keys() == {"temporal"}
    assert torch.equal(found["temporal"], expected)


def test_streams_that_interact_stay_together() -> None:
    network = network_of("stilt", interaction=True)
    assert network.of_streams(["spatial"]) is network
