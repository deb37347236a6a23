"""Which processes a command has, whatever became of their parents (Linux)."""

import time
from contextlib import suppress
from pathlib import Path


def session(leader: int) -> dict[int, str]:
    """Returns the command line of each living process of a session, by its id.

    A command that is started in a session of its own leads it; Ray's processes stay in it.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, *numbers = (folder / "stat").read_text().rpartition(")")[2].split()
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(numbers[2]) == leader and state not in "ZX":
            found[int(folder.name)] = line
    return found


def open_to_others(processes: dict[int, str]) -> list[str]:
    """Returns where the processes listen that another machine could reach."""
    sockets = {}
    for name in ("tcp", "tcp6"):
        for line in (Path("/proc/net") / name).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A":  # it listens
                sockets[f"socket:[{inode}]"] = local.partition(":")[0]
    found = []
    for pid, line in processes.items():
        found += [
            f"{line}: {sockets[file]}"
            for file in _open_files(pid)
            if file in sockets and not _is_loopback(sockets[file])
        ]
    return found


def _open_files(pid: int) -> list[str]:
    """Returns what a process has open; of one's own files that excludes the list itself."""
    files = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                files.append(str(file.readlink()))
    return files


def _is_loopback(address: str) -> bool:
    """Whether an address as the kernel prints it, each word's bytes turned round, is loopback."""
    return address in (
        "0100007F",
        "0000000000000000FFFF00000100007F",
        "00000000000000000000000001000000",
    )


def shared_memory_left(before: set[str]) -> set[str]:
    """Returns what is new in /dev/shm and in no living process's hands.

    Other commands of this machine make and remove such files too: what stays for seconds is left.
    """
    left = _shared_memory() - before
    for _ in range(10):
        left &= _shared_memory()
        for maps in Path("/proc").glob("[0-9]*/maps") if left else ():
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                text = maps.read_text()
                left = {name for name in left if f"/dev/shm/{name}" not in text}
        if not left:
            break
        time.sleep(0.5)
    return left


def _shared_memory() -> set[str]:
    return {path.name for path in Path("/dev/shm").iterdir()}
