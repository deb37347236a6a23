"""Weights files on their way to nodes that share no folder: through the results at a URI."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

from study.data.store.remote import RemoteFolder, is_uri, joined_uri
from study.job import Job

__all__ = ["share_weights"]

FOLDER = "weights"


def share_weights(job: Job) -> Job:
    """Returns a job whose weights files every node reaches.

    Where its results are at a URI, this machine's files are copied there, once, and named by their
    content; `build_model` of ``study.job`` fetches them. Elsewhere they are on shared storage.
    """
    if not is_uri(job.results):
        return job
    files = {stream: _shared(job.results, file) for stream, file in job.weights_files.items()}
    return replace(job, weights_files=files)


@cache
def _shared(results: str, file: str) -> str:
    """Copies a file into the results, unless it is there; returns its URI."""
    with Path(file).open("rb") as opened:
        name = hashlib.file_digest(opened, "sha256").hexdigest()
        folder = RemoteFolder(joined_uri(results, FOLDER))
        if not folder.exists(name):
            opened.seek(0)
            folder.put_opened(opened, name)
    return joined_uri(results, f"{FOLDER}/{name}")
