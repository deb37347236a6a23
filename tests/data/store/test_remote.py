"""A clip store at a URI: copied there, and read through the cache, over files and over S3."""

import errno
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from study.data.store import remote, staging
from study.data.store.clip_store import ClipStore
from study.data.store.preparation import prepare
from study.data.store.remote import CACHE_VARIABLE, RemoteFolder
from study.data.store.upload import check_target, upload
from tests.data.s3_server import s3_server

ROOT = Path(__file__).parents[3]
READ_ALL = """
import sys
from study.data.store.clip_store import ClipStore
store = ClipStore.open(sys.argv[1])
print(*(bytes(store.record(name).rgb(0))[-9:].hex() for name in store.names))
"""


@pytest.fixture(scope="module", autouse=True)
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "SHARD_BYTES", 60_000)
        yield


@pytest.fixture(scope="module")
def store(videos, annotations, settings, tmp_path_factory, small_shards):
    path = tmp_path_factory.mktemp("local") / "store"
    prepare(annotations, videos, path, settings, workers=1)
    assert ClipStore.open(path).shards >= 2
    return ClipStore.open(path)


@pytest.fixture(scope="module")
def other(videos, annotations, settings, tmp_path_factory, small_shards):
    """A store of the same videos at another quality."""
    path = tmp_path_factory.mktemp("other") / "store"
    prepare(annotations, videos, path, replace(settings, jpeg_quality=50), workers=1)
    return ClipStore.open(path)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server():
    with s3_server() as server:
        yield server


@pytest.fixture(params=["file", "s3"])
def uri(request, tmp_path):
    if request.param == "file":
        return (tmp_path / "there/store").as_uri()
    return request.getfixturevalue("server").uri("bucket/there/store")


def pictures(store):
    return {
        name: [bytes(record.rgb(p)) for p in range(record.positions)]
        for name in store.names
        if (record := store.record(name))
    }


def shards(folder):
    return sorted(folder.rglob("shards/[0-9]*.arrow"))


def test_a_copied_store_is_read_as_the_local_one(store, uri):
    summary = upload(store.path, uri)
    assert summary.copied == len(store.files)
    assert summary.bytes == sum(store.files.values())
    there = ClipStore.open(uri)
    assert there.fingerprint == store.fingerprint
    assert there.settings == store.settings
    assert there.annotations == store.annotations
    assert pictures(there) == pictures(store)
    assert list(there.verify()) == []
    assert str(there.path) == uri
    assert pictures(pickle.loads(pickle.dumps(there))) == pictures(store)


def test_each_file_is_fetched_once_and_only_when_it_is_needed(store, server, cache):
    uri = server.uri("bucket/store")
    upload(store.path, uri)
    there = ClipStore.open(uri)
    there.record(there.names[0])
    assert server.gets("shards/") == len(shards(cache)) == 1
    for _ in range(2):
        again = ClipStore.open(uri)
        assert pictures(again) == pictures(store)
        assert again.annotations == store.annotations
    for name in store.files:
        assert server.gets(name) == 1


def test_processes_that_fill_one_cache_at_once_fetch_each_file_once(store, server):
    uri = server.uri("bucket/store")
    upload(store.path, uri)
    readers = [
        subprocess.Popen(
            [sys.executable, "-c", READ_ALL, uri], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = {reader.communicate()[0] for reader in readers}
    assert said == {" ".join(bytes(store.record(n).rgb(0))[-9:].hex() for n in store.names) + "\n"}
    for name in store.files:
        assert server.gets(name) == (0 if name.startswith("splits") else 1)


def test_a_forked_loader_process_fetches_what_its_parent_has_not(store, server):
    uri = server.uri("bucket/store")
    upload(store.path, uri)  # by a client in this process
    there = ClipStore.open(uri)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(pictures, [there]) == pictures(store)


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_the_file(store, server, cache):
    uri = server.uri("bucket/store")
    upload(store.path, uri)
    there = ClipStore.open(uri)
    server.pause = threading.Event()
    fetch = multiprocessing.get_context("fork").Process(target=pictures, args=[there])
    fetch.start()
    while not server.gets("shards/"):
        time.sleep(0.01)
    time.sleep(0.1)
    fetch.kill()
    fetch.join()
    assert shards(cache) == []
    server.pause.set()
    server.pause = None
    assert pictures(there) == pictures(store)


def test_a_cut_file_in_the_cache_is_fetched_again(store, tmp_path, cache):
    uri = (tmp_path / "there").as_uri()
    upload(store.path, uri)
    assert pictures(ClipStore.open(uri)) == pictures(store)
    for file in cache.rglob("[!.]*.arrow"):
        file.write_bytes(file.read_bytes()[:100])
    assert pictures(ClipStore.open(uri)) == pictures(store)


def test_a_store_in_the_place_of_another_is_not_mistaken_for_it(store, other, tmp_path):
    there = tmp_path / "there"
    upload(store.path, there.as_uri())
    assert pictures(ClipStore.open(there.as_uri())) == pictures(store)
    shutil.rmtree(there)
    upload(other.path, there.as_uri())
    assert pictures(ClipStore.open(there.as_uri())) == pictures(other) != pictures(store)


def test_what_was_added_to_a_store_is_added_there(videos, annotations, settings, tmp_path, server):
    uri = server.uri("bucket/store")
    some, local = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos / "jump", some / "jump")
    (some / "run").mkdir()
    prepare(annotations, some, local, settings, workers=1)
    upload(local, uri)
    old = ClipStore.open(uri)
    assert len(old) == 5
    shown = pictures(old)
    shutil.copytree(videos / "run", some / "run", dirs_exist_ok=True)
    prepare(annotations, some, local, settings, workers=1)
    grown = ClipStore.open(local)
    assert upload(local, uri).copied == 1 + grown.shards - old.shards  # the videos' table
    assert pictures(old) == shown
    new = ClipStore.open(uri)
    assert new.fingerprint == grown.fingerprint != old.fingerprint
    assert pictures(new) == pictures(grown)
    assert server.gets("shards/00000") == 1
    assert upload(local, uri).copied == 0


def test_an_upload_that_failed_goes_on_and_readers_see_nothing_before(store, server):
    uri = server.uri("bucket/store")
    server.refused = "shards/00001"
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        upload(store.path, uri)
    with pytest.raises(FileNotFoundError, match=r"unfinished: run .* --store DIR --upload s3://"):
        ClipStore.open(uri)
    server.refused = None
    server.objects["store/shards/00000.arrow"] = b"a part of it"
    assert upload(store.path, uri).copied == store.shards
    assert pictures(ClipStore.open(uri)) == pictures(store)


def test_a_place_that_holds_something_else_is_refused(store, other, settings, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds other things \(notes.txt, …\)"):
        check_target(there.as_uri(), settings)
    (there / "notes.txt").unlink()
    upload(store.path, there.as_uri())
    with pytest.raises(ValueError, match="holds a clip store of other settings"):
        upload(other.path, there.as_uri())


def test_a_store_that_does_not_continue_the_one_there_is_refused(
    store, videos, annotations, settings, tmp_path
):
    some, local = tmp_path / "videos", tmp_path / "store"
    shutil.copytree(videos / "run", some / "run")
    (some / "jump").mkdir()
    prepare(annotations, some, local, settings, workers=1)
    upload(store.path, (tmp_path / "there").as_uri())
    with pytest.raises(ValueError, match=r"holds another clip store, of 10 videos"):
        upload(local, (tmp_path / "there").as_uri())
    assert ClipStore.open((tmp_path / "there").as_uri()).fingerprint == store.fingerprint


def test_what_is_wrong_with_a_place_is_said(store, server, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no clip store in file://.* --upload file://"):
        ClipStore.open((tmp_path / "nothing").as_uri())
    with pytest.raises(FileNotFoundError, match="no clip store in s3://"):
        ClipStore.open(server.uri("nobucket/store"))
    with pytest.raises(OSError, match="Bucket 'nobucket' not found"):
        upload(store.path, server.uri("nobucket/store"))
    with pytest.raises(ValueError, match=r"'foo://x': Unrecognized .* such as s3://bucket/store"):
        ClipStore.open("foo://x")
    with pytest.raises(ValueError, match=r"'folder' is no URI; give one such as s3://"):
        upload(store.path, "folder")


def test_a_damaged_copy_is_said(store, tmp_path):
    there = tmp_path / "there"
    upload(store.path, there.as_uri())
    opened = ClipStore.open(there.as_uri())
    (there / "shards/00000.arrow").write_bytes(b"cut")
    with pytest.raises(OSError, match=r"00000.arrow in file.* has 3 bytes where its manifest says"):
        pictures(opened)
    (there / "shards/00000.arrow").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no shards/00000.arrow, .* upload the store"):
        pictures(opened)


def test_a_cache_that_cannot_hold_it_is_said(store, tmp_path, monkeypatch):
    uri = (tmp_path / "there").as_uri()
    upload(store.path, uri)
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(OSError, match=f"can't write .*; name another folder .* {CACHE_VARIABLE}"):
        ClipStore.open(uri)

    def full(self, name):
        yield b"some"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RemoteFolder, "pieces", full)
    with pytest.raises(OSError, match=r"no space left for the 1,000 bytes of a in .*; name"):
        remote._fetch(RemoteFolder(uri), "a", tmp_path / "full/a", 1000)
    assert not (tmp_path / "full/a").exists()
