"""``cluster-slurm.sh``, run as Slurm runs it, with stand-ins for the commands of Slurm and Ray."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "cluster-slurm.sh"
# Of sbatch, since version 20.
OPTIONS = {
    *("account", "cpus-per-task", "exclusive", "gpus-per-node", "job-name", "nodes"),
    *("ntasks-per-node", "open-mode", "output", "partition", "requeue", "time"),
}
STAND_INS = {
    "scontrol": '[ "$*" = "show hostnames n[7-8]" ] && printf "n7\\nn8\\n"',
    # As srun does, it drops its own options and starts the rest on every node.
    "srun": """options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
printf '%s\\n' "${options[@]}" > srun.txt
for node in 0 1; do SLURM_PROCID=$node "$@" || exit; done""",
    # As ray symmetric-run does, it runs what follows -- on the head alone.
    "ray": """[ "$SLURM_PROCID" = 0 ] || exit 0
printf '%s\\n' "$RAY_AUTH_MODE $RAY_AUTH_TOKEN" "$@" > ray.txt
while [ "$1" != -- ]; do shift; done
shift; "$@" """,
}


@pytest.fixture
def submitted(tmp_path: Path) -> dict[str, str]:
    """The environment of a job that was submitted from a folder with a project in it."""
    for folder in ("bin", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").write_text("activated=yes; export activated\n")
    for name, text in STAND_INS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_NODELIST": "n[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "32",
        "SLURM_GPUS_ON_NODE": "4",
    }


def slurm_runs(*words: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(SCRIPT), *words]
    return subprocess.run(command, env=env, cwd="/", capture_output=True, text=True)


def test_ray_starts_on_every_node_and_the_command_runs_once(
    submitted: dict[str, str], tmp_path: Path
) -> None:
    words = ["--set", "batch_size=(16, 32)", "--search", "learning_rate=1e-4..1e-1:log"]
    ended = slurm_runs("printf", "%s\\n", *words, env=submitted)
    assert (ended.returncode, ended.stdout.splitlines()) == (0, words), ended.stderr
    assert "--cpus-per-task=32" in (tmp_path / "srun.txt").read_text().splitlines()
    secret, *typed = (tmp_path / "ray.txt").read_text().splitlines()
    assert re.fullmatch(r"token [0-9a-f]{64}", secret)
    assert typed[:5] == ["symmetric-run", "--address", "n7:6379", "--min-nodes", "2"]
    assert typed[5:8] == ["--num-cpus=32", "--num-gpus=4", "--"]


def test_the_jobs_state_is_the_commands(submitted: dict[str, str]) -> None:
    assert slurm_runs("bash", "-c", "exit 2", env=submitted).returncode == 2
    assert slurm_runs("bash", "-c", '[ "$activated" = yes ]', env=submitted).returncode == 0


def test_a_job_without_a_command_says_what_to_give(submitted: dict[str, str]) -> None:
    ended = slurm_runs(env=submitted)
    assert ended.returncode == 2
    assert "give the command to run" in ended.stderr


def test_another_job_has_another_key(submitted: dict[str, str], tmp_path: Path) -> None:
    keys = set()
    for _ in range(2):
        slurm_runs("true", env=submitted)
        keys.add((tmp_path / "ray.txt").read_text().splitlines()[0])
    assert len(keys) == 2


def test_ray_takes_the_options(submitted: dict[str, str], tmp_path: Path) -> None:
    """Those of symmetric-run, and those that it hands to ray start on head and worker."""
    symmetric = pytest.importorskip("ray.scripts.symmetric_run")
    start = pytest.importorskip("ray.scripts.scripts").start
    slurm_runs("true", env=submitted)
    _, _, *typed = (tmp_path / "ray.txt").read_text().splitlines()
    handed = symmetric.curate_and_validate_ray_start_args(typed[: typed.index("--")])
    for role in (["--head", "--port=6379"], ["--address", "n7:6379", "--block"]):
        parsed = start.make_context("start", [*role, *handed]).params
        assert (parsed["num_cpus"], parsed["num_gpus"]) == (32, 4)


def test_sbatch_knows_the_scripts_options_and_a_node_has_one_ray() -> None:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.MULTILINE)
    assert len(lines) == SCRIPT.read_text().count("#SBATCH")
    options = dict(lines)
    assert options.keys() <= OPTIONS
    assert options["ntasks-per-node"] == "1"
    assert "exclusive" in options  # ray symmetric-run ends every Ray of the user on its node


def test_the_example_is_a_command_that_the_study_takes() -> None:
    run = pytest.importorskip("study.run")
    text = re.sub("^# *", "", SCRIPT.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    (typed,) = re.findall(
        r"^sbatch cluster-slurm\.sh python -m study\.run (.*)$", text, re.MULTILINE
    )
    asked = run._parser().parse_args(shlex.split(typed))
    assert asked.address == "auto"
