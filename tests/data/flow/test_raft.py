"""RAFT as a backend: torchvision's network on padded frames, with weights from torch's cache.

The weights here are random, under the published names, so these tests tell shapes, units and where
weights are found; what published weights see is torchvision's to test.
"""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import get_model, get_model_weights

from study.data.flow import compute, raft
from study.data.flow.compute import FlowSettings, check_backend, compute_flow, runs_on_gpu
from study.data.store.settings import StoreSettings

NETWORKS = {"raft": "raft_large", "raft-small": "raft_small"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Torch's cache, empty."""
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    raft._network.cache_clear()
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def place(cache: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Places a file of random weights and returns the network with them."""
    torch.manual_seed(0)
    network = get_model(NETWORKS[backend], weights=None).eval()
    file = cache / "random.pth"
    torch.save(network.state_dict(), file)
    name = f"random-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(cache / name)
    monkeypatch.setitem(compute._RAFT_WEIGHTS, backend, name)
    return network


def frames_of(height: int, width: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)


def flow_of(network: torch.nn.Module, frames: np.ndarray, updates: int) -> np.ndarray:
    """The network's flow of the first pair, as torchvision's own transforms feed it."""
    images = torch.from_numpy(frames[:2]).permute(0, 3, 1, 2)
    first, second = get_model_weights("raft_large").DEFAULT.transforms()(images[:1], images[1:])
    with torch.inference_mode():
        return network(first, second, num_flow_updates=updates)[-1][0].numpy()


@pytest.mark.parametrize("backend", NETWORKS)
def test_flow_is_torchvisions_in_pixels_of_the_frames(
    backend: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of frames that need no padding, of a height that does, and of less than the least size."""
    network = place(cache, backend, monkeypatch)
    settings = FlowSettings(backend=backend, updates=2)
    check_backend(settings)
    frames = frames_of(136, 128)
    flow = compute_flow(frames, settings)
    assert flow.shape == (2, 2, 136, 128)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow[0], flow_of(network, frames, 2), atol=1e-4)
    for height, width in ((131, 128), (24, 32)):
        small = compute_flow(frames[:2, :height, :width], settings)
        rows = (136 if height == 131 else 128) - height
        columns = 128 - width
        sides = ((0, 0), *((more // 2, more - more // 2) for more in (rows, columns)), (0, 0))
        padded = np.pad(frames[:2, :height, :width], sides, mode="edge")
        whole = flow_of(network, padded, 2)
        top, left = rows // 2, columns // 2
        expected = whole[:, top : top + height, left : left + width]
        np.testing.assert_allclose(small[0], expected, atol=1e-4)


def test_each_pairs_flow_depends_on_its_frames_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place(cache, "raft-small", monkeypatch)
    settings = FlowSettings(backend="raft-small", updates=1)
    frames = frames_of(128, 128)
    flow = compute_flow(frames, settings)
    np.testing.assert_array_equal(flow[1], compute_flow(frames[1:], settings)[0])


def test_gray_frames_are_refused_of_raft_and_colour_of_the_others() -> None:
    with pytest.raises(ValueError, match=r"flow needs RGB frames \(F, H, W, 3\).*\(2, 8, 8\)"):
        compute_flow(np.zeros((2, 8, 8), np.uint8), FlowSettings(backend="raft"))


@pytest.mark.parametrize("backend", NETWORKS)
def test_the_weights_are_torchvisions_default_ones(backend: str) -> None:
    default = get_model_weights(NETWORKS[backend]).DEFAULT
    assert default.url.endswith(f"/{FlowSettings(backend=backend).weights}")


@pytest.mark.parametrize("backend", NETWORKS)
def test_without_network_it_says_which_file_to_place_where(
    backend: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    settings = FlowSettings(backend=backend)
    place_it = rf"Name or service.*Fetch https://.*/{settings.weights} .* at .*/{settings.weights}"
    with pytest.raises(FileNotFoundError, match=place_it):
        check_backend(settings)
    (cache / str(settings.weights)).write_bytes(b"something else")
    with pytest.raises(ValueError, match="its SHA-256 doesn't begin with"):
        check_backend(settings)


def test_the_network_and_its_weights_are_part_of_a_stores_settings() -> None:
    tvl1 = StoreSettings(dataset="d").changed(flow_options=["bound=15", "warps=2"])
    changed = tvl1.changed(flow_backend="raft", flow_options=["updates=20"])
    flow = {name: value for name, value in changed.to_dict().items() if name.startswith("flow.")}
    assert flow == {
        "flow.backend": "raft",
        "flow.weights": "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
        "flow.updates": 20,
        "flow.bound": 15.0,
    }
    assert StoreSettings.from_dict(changed.to_dict()) == changed
    assert "flow.updates" not in tvl1.to_dict()
    for backend, option in (("raft", "warps=2"), ("tvl1", "updates=3")):
        with pytest.raises(ValueError, match=f"has no effect on backend '{backend}'"):
            tvl1.changed(flow_backend=backend, flow_options=[option])


def test_a_gpu_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert runs_on_gpu(FlowSettings(backend="raft")) == there
