import hashlib
from pathlib import Path
from urllib.error import URLError

import pytest
import torch

from study.training.weights import find_weights


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object, **more: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_a_file_is_known_by_its_content(tmp_path: Path):
    (tmp_path / "a.pt").write_bytes(b"weights")
    (tmp_path / "b.pt").write_bytes(b"weights")
    names = {
        find_weights(str(tmp_path / f), "resnet18", folder=tmp_path).name for f in ("a.pt", "b.pt")
    }
    assert names == {f"sha256:{hashlib.sha256(b'weights').hexdigest()[:16]}"}


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no such file; give imagenet, none"):
        find_weights(str(tmp_path / "none.pt"), "resnet18", folder=tmp_path)


@pytest.mark.usefixtures("offline")
def test_without_a_network_the_error_says_where_to_place_the_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"place it at .*resnet18-.*\.pth") as error:
        find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    place = Path(str(error.value).split("place it at ")[1].split(",")[0])
    place.write_bytes(b"")
    assert find_weights("imagenet", "resnet18", folder=tmp_path / "weights").file == place


@pytest.mark.usefixtures("offline")
def test_weights_in_torchs_own_cache_are_used(tmp_path: Path):
    url_name = "resnet18-f37072fd.pth"
    cached = tmp_path / "hub" / "checkpoints" / url_name
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"cached")
    weights = find_weights("imagenet", "resnet18", folder=tmp_path / "weights")
    assert weights.file is not None
    assert weights.file.read_bytes() == b"cached"
    assert weights.name == f"imagenet1k-v1:{url_name}"


def test_a_backbone_without_imagenet_weights_starts_from_scratch(tmp_path: Path):
    weights = find_weights("imagenet", "small", folder=tmp_path)
    assert (weights.name, weights.file) == ("none", None)
