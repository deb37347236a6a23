"""Copies a finished clip store to S3 or the like, where `ClipStore.open` reads it by its URI.

The manifest comes last, so a reader finds all of the store or none of it, or all of the old one.
An upload that was stopped goes on: files that are there with the right size are not copied again.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from study.data.store.clip_store import ClipStore
from study.data.store.remote import RemoteFolder
from study.data.store.settings import StoreSettings, parse_settings

__all__ = ["UploadSummary", "check_target", "upload"]


@dataclass(frozen=True, kw_only=True, slots=True)
class UploadSummary:
    """What an upload came to: the tables and shards that were copied, and their bytes."""

    copied: int
    bytes: int


def check_target(uri: str, settings: StoreSettings) -> RemoteFolder:
    """Refuses a URI that a store of these settings can't be copied to.

    Raises:
        ValueError: If it is no URI, or holds a store of other settings, or something else.
        OSError: If it can't be reached.
    """
    remote = RemoteFolder(uri)
    content = remote.read("settings.json")
    if content is None:
        if others := sorted(remote.sizes()):
            raise ValueError(f"{uri} holds other things ({others[0]}, …): name a new folder")
    elif parse_settings(content, uri) != settings:
        raise ValueError(f"{uri} holds a clip store of other settings: name a new folder")
    return remote


def upload(
    path: Path, uri: str, *, progress: Callable[[int, int], None] | None = None
) -> UploadSummary:
    """Copies a finished store, or what was added to it since it was copied last.

    Args:
        path: The store's folder.
        uri: Where to, such as ``s3://bucket/store``.
        progress: Called after every file with the bytes that are there and those of all files.

    Raises:
        FileNotFoundError: If there is no store in the folder, or it is unfinished.
        ValueError: If another store is there, or something else.
        OSError: If it can't be reached or written; the same call goes on where it stopped.
    """
    store = ClipStore.open(path)
    files = store.files
    remote = check_target(uri, store.settings)
    _check_shards(store, remote)
    there = remote.sizes()
    copied = copied_bytes = done = 0
    if "settings.json" not in there:
        remote.put(path / "settings.json", "settings.json")
    for name, size in files.items():
        if there.get(name) != size:
            remote.put(path / name, name)
            copied += 1
            copied_bytes += size
        done += size
        if progress:
            progress(done, sum(files.values()))
    if remote.read("manifest.json") != store.manifest:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "manifest.json"  # the store's own may have been replaced since
            file.write_bytes(store.manifest)
            remote.put(file, "manifest.json")
    return UploadSummary(copied=copied, bytes=copied_bytes)


def _check_shards(store: ClipStore, remote: RemoteFolder) -> None:
    """Shards that are there are never replaced: they must be the first of the store's."""
    if remote.read("manifest.json") is None:
        return
    other = ClipStore.open(remote.uri)
    same = other.shards <= store.shards and all(
        other.shard_digest(number) == store.shard_digest(number) for number in range(other.shards)
    )
    if not same:
        raise ValueError(
            f"{remote.uri} holds another clip store, of {len(other)} videos (fingerprint "
            f"{other.fingerprint}), that this one doesn't continue: name a new folder"
        )
