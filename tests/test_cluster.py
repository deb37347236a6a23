"""The cluster descriptions, by Ray's own checks and by ours where Ray's let errors pass."""

import copy
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CLOUDS = ("cluster.yaml", "cluster-gcp.yaml")
FILES = (*CLOUDS, "cluster-local.yaml")
FOLDER = "~/two-stream-study"
# Of EC2's RunInstances, what a node may set; Ray hands it on unread.
NODE_CONFIG = {
    *("BlockDeviceMappings", "IamInstanceProfile", "ImageId", "InstanceMarketOptions"),
    *("InstanceType", "KeyName", "SecurityGroupIds", "SubnetIds"),
}
# Of Compute Engine's instances.insert and its disks and scheduling.
GCP_NODE_CONFIG = {"disks", "guestAccelerators", "machineType", "networkInterfaces", "scheduling"}
GCP_SCHEDULING = {
    "provisioningModel": {"SPOT", "STANDARD"},
    "instanceTerminationAction": {"DELETE", "STOP"},
    "onHostMaintenance": {"TERMINATE"},
}
# Each instance type's memory of a GPU (GB), vCPUs and GPUs, as it is sold.
GPU_TYPES = {"g6.4xlarge": (24, 16, 1), "g2-standard-16": (24, 16, 1)}
EBS = {"VolumeSize", "VolumeType", "Iops", "Throughput", "Encrypted", "DeleteOnTermination"}


def described(name: str) -> dict[str, Any]:
    text = (ROOT / name).read_text()
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def instance_type(kind: dict[str, Any]) -> str:
    node = kind["node_config"]
    return str(node.get("InstanceType") or node["machineType"])


def commands(cluster: dict[str, Any]) -> list[str]:
    return [line for key, lines in cluster.items() if key.endswith("commands") for line in lines]


@pytest.fixture(params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    return described(request.param)


@pytest.mark.parametrize("name", FILES)
def test_ray_accepts_the_description(name: str) -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(copy.deepcopy(described(name))))


@pytest.mark.parametrize(
    "change",
    [
        {"max_wrokers": 2},
        {"head_node_type": "nope"},
        {"available_node_types": {"head": {"resources": {"CPU": "two"}, "node_config": {}}}},
    ],
)
def test_rays_check_is_one_that_can_fail(change: dict[str, Any]) -> None:
    util = pytest.importorskip("ray.autoscaler._private.util")
    with pytest.raises(Exception, match=r".+"):
        util.validate_config(util.prepare_config({**described("cluster.yaml"), **change}))


def test_no_key_is_written_twice_in_a_file() -> None:
    class Strict(yaml.SafeLoader):  # type: ignore[misc]  # it has no types
        pass

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return dict(loader.construct_pairs(node, deep=True))

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    for name in (*FILES, "cluster-kuberay.yaml"):
        yaml.load((ROOT / name).read_text(), Loader=Strict)


def test_what_ray_hands_to_aws_unread_has_the_right_names() -> None:
    cluster = described("cluster.yaml")
    assert re.fullmatch(r"[a-z]{2}(-[a-z]+)+-\d", cluster["provider"]["region"])
    for kind in cluster["available_node_types"].values():
        node = kind["node_config"]
        assert node.keys() <= NODE_CONFIG
        assert {"InstanceType", "ImageId"} <= node.keys()
        assert re.fullmatch(r"[a-z]+[\w-]*\.\w+", node["InstanceType"])
        assert re.fullmatch(r"ami-[0-9a-f]{17}|resolve:ssm:/[\w/.-]+", node["ImageId"])
        assert node.get("InstanceMarketOptions", {"MarketType": "spot"}) == {"MarketType": "spot"}
        for disk in node["BlockDeviceMappings"]:
            assert disk.keys() == {"DeviceName", "Ebs"}
            assert disk["Ebs"].keys() <= EBS
            assert disk["Ebs"]["VolumeSize"] >= 100


def test_what_ray_hands_to_google_unread_has_the_right_names_and_values() -> None:
    cluster = described("cluster-gcp.yaml")
    place = cluster["provider"]
    assert re.fullmatch(r"[a-z]+-[a-z]+\d", place["region"])
    assert re.fullmatch(rf"{place['region']}-[a-f]", place["availability_zone"])
    assert re.fullmatch(r"[a-z][a-z\d-]{4,28}[a-z\d]", place["project_id"])
    for kind in cluster["available_node_types"].values():
        node = kind["node_config"]
        assert node.keys() <= GCP_NODE_CONFIG
        assert re.fullmatch(r"[a-z]\d\w?-[a-z]+-\d+g?", node["machineType"])
        (disk,) = node["disks"]
        assert disk["boot"]
        assert disk["autoDelete"]
        assert disk["type"] == "PERSISTENT"
        made = disk["initializeParams"]
        assert made.keys() <= {"diskSizeGb", "diskType", "sourceImage"}
        assert made["diskSizeGb"] >= 100
        family = r"projects/[a-z-]+/global/images/family/[a-z\d-]+"
        assert re.fullmatch(family, made["sourceImage"])
        for name, value in node.get("scheduling", {}).items():
            assert value in GCP_SCHEDULING[name]
    scheduling = cluster["available_node_types"]["gpu"]["node_config"]["scheduling"]
    assert scheduling["onHostMaintenance"] == "TERMINATE"  # or no machine with a GPU is made


@pytest.mark.parametrize("name", CLOUDS)
def test_workers_come_and_go_and_only_they_have_gpus(name: str) -> None:
    cluster = described(name)
    kinds = cluster["available_node_types"]
    assert cluster["head_node_type"] == "head"
    assert kinds["gpu"]["min_workers"] == 0
    assert 0 < kinds["gpu"]["max_workers"] <= cluster["max_workers"]
    assert cluster["idle_timeout_minutes"] > 0
    if name == "cluster.yaml":  # Ray asks EC2, and no other cloud
        assert all(kind["resources"] == {} for kind in kinds.values())
        return
    _, cores, gpus = GPU_TYPES[instance_type(kinds["gpu"])]
    assert kinds["gpu"]["resources"] == {"CPU": cores, "GPU": gpus}
    assert kinds["head"]["resources"] == {"CPU": int(instance_type(kinds["head"]).split("-")[-1])}


def test_every_file_that_is_sent_is_in_the_repository(cluster: dict[str, Any]) -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for remote, local in cluster["file_mounts"].items():
        if local.startswith("~"):
            assert remote == local == "~/.ray/auth_token"
            continue
        assert remote == f"{FOLDER}/{local}"
        assert local == ".git" or any(
            path == local or path.startswith(f"{local}/") for path in tracked
        )


def test_what_is_sent_is_what_the_set_up_needs(cluster: dict[str, Any]) -> None:
    sent = set(cluster["file_mounts"].values())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.removesuffix("*") for name in packages} <= sent
    assert {"Makefile", "pyproject.toml", "constraints.txt", "README.md"} <= sent
    rule = (ROOT / "Makefile").read_text()
    assert re.search(r"^setup:", rule, re.MULTILINE), "make setup, which the nodes run, is gone"
    assert f"cd {FOLDER} && make setup" in cluster["setup_commands"]


def test_every_command_is_a_command_that_a_shell_reads(cluster: dict[str, Any]) -> None:
    for line in commands(cluster):
        checked = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert shlex.split(line, comments=True)


def test_the_path_line_puts_ray_first_for_every_shell(
    cluster: dict[str, Any], tmp_path: Path
) -> None:
    """Also for the shells of ssh, for which a distribution's .bashrc ends in its first lines."""
    (line,) = [line for line in cluster["setup_commands"] if ".bashrc" in line]
    (tmp_path / ".bashrc").write_text("case $- in *i*) ;; *) return;; esac\n")
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(["bash", "-c", line], env=environment, check=True)
    said = subprocess.run(
        ["bash", "-c", '. ~/.bashrc; echo "$PATH $RAY_AUTH_MODE"'],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert said == f"{tmp_path}/two-stream-study/.venv/bin:/usr/bin:/bin token\n"
    assert len((tmp_path / ".bashrc").read_text().splitlines()) == 2


def test_the_cluster_is_closed_to_strangers(cluster: dict[str, Any]) -> None:
    starts = [line for line in commands(cluster) if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in starts[0]
    assert "--address=$RAY_HEAD_IP:6379" in starts[1]
    assert "~/.ray/auth_token" in cluster["file_mounts"]
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]


@pytest.mark.parametrize("name", [*FILES, "cluster-kuberay.yaml", "cluster-slurm.sh", "Dockerfile"])
def test_no_package_index_wheel_or_open_address_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert not re.search(r"https?://|index-url|\.whl|0\.0\.0\.0", text)


@pytest.mark.parametrize("name", FILES)
def test_nodes_share_the_folder_that_the_example_writes_to(name: str) -> None:
    cluster = described(name)
    assert any("mountpoint -q /mnt/study" in line for line in cluster["setup_commands"])
    example = (ROOT / "cluster.yaml").read_text()
    assert "--data /mnt/study/" in example
    assert "--results /mnt/study/" in example


@pytest.mark.parametrize(("name", "margin"), [("cluster.yaml", "# *"), ("README.md", r"\$ ")])
def test_an_example_command_is_one_line_that_the_study_takes(name: str, margin: str) -> None:
    """A line end inside its quotes would end the command, unless a backslash is before it."""
    run = pytest.importorskip("study.run")
    text = re.sub(f"^{margin}", "", (ROOT / name).read_text(), flags=re.MULTILINE)
    (typed,) = re.findall(r"^ray exec \S+ --tmux '.*?'", text, re.MULTILINE | re.DOTALL)
    *_, remote = shlex.split(typed)
    remote = remote.replace("\\\n", "")
    assert "\n" not in remote
    folder, command = remote.split(" && ")
    assert folder == "cd two-stream-study"
    assert command.startswith("python -m study.run ")
    run._parser().parse_args(shlex.split(command)[3:])


@pytest.mark.parametrize("name", CLOUDS)
def test_the_example_fits_the_gpu_and_the_cores_of_its_nodes(name: str) -> None:
    """The other clouds' files are run as AWS' says."""
    run = pytest.importorskip("study.run")
    resources = pytest.importorskip("study.cluster.resources")
    kind = described(name)["available_node_types"]["gpu"]
    gigabytes, cores, gpus = GPU_TYPES[instance_type(kind)]
    text = (ROOT / "cluster.yaml").read_text()
    (typed,) = re.findall(r"python -m study\.run (.*?)'", text, re.DOTALL)
    asked = run._parser().parse_args(shlex.split(re.sub(r"\\\n# *", "", typed)))
    assert asked.gpu_memory == gigabytes
    assert asked.loader_workers is None
    each = resources.Resources(
        gpus_per_worker=asked.gpus_per_worker, cpus_per_worker=asked.cpus_per_worker
    )
    node = {"CPU": cores, "GPU": gpus}
    assert resources.trainings_at_once(each, [node]) == 1
    assert resources.loader_workers_on(node, each, at_once=asked.at_once) == 8


def test_a_head_reaches_machines_of_ones_own() -> None:
    cluster = described("cluster-local.yaml")
    assert cluster["auth"].keys() == {"ssh_user", "ssh_private_key"}  # Ray hands the key to it
    starts = cluster["head_start_ray_commands"][-1]
    assert "RAY_enable_autoscaler_v2=0" in starts  # the new one starts no worker of this kind


def test_spot_workers_watch_for_their_notice_and_ray_up_does_not_wait_for_it() -> None:
    cluster = described("cluster.yaml")
    assert "InstanceMarketOptions" in cluster["available_node_types"]["gpu"]["node_config"]
    *_, start, watch = cluster["worker_start_ray_commands"]
    assert "ray start" in start
    assert "RAY_AUTH_MODE=token" in watch
    assert "setsid --fork" in watch
    assert "python -m study.cluster.spot > /tmp/study-spot.log 2>&1 < /dev/null" in watch


# Of KubeRay 1.5.1's API reference, and of Kubernetes' pods, the fields that the file may have.
POD = {
    "spec": {
        "containers": [
            {
                "name": str,
                "image": str,
                "resources": {"requests": dict, "limits": dict},
                "volumeMounts": [{"name": str, "mountPath": str}],
            }
        ],
        "tolerations": [{"key": str, "operator": str, "effect": str}],
        "volumes": [{"name": str, "persistentVolumeClaim": {"claimName": str}}],
    }
}
RAY_JOB = {
    "apiVersion": str,
    "kind": str,
    "metadata": {"name": str},
    "spec": {
        "entrypoint": str,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "backoffLimit": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {"idleTimeoutSeconds": int},
            "headGroupSpec": {"rayStartParams": dict, "template": POD},
            "workerGroupSpecs": [
                {
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "rayStartParams": dict,
                    "template": POD,
                }
            ],
        },
    },
}


def check_fields(value: Any, shape: Any, place: str = "RayJob") -> None:
    if isinstance(shape, type):
        assert isinstance(value, shape), f"{place} is {value!r}"
    elif isinstance(shape, list):
        assert value, f"{place} is empty"
        for number, one in enumerate(value):
            check_fields(one, shape[0], f"{place}[{number}]")
    else:
        assert value.keys() <= shape.keys(), f"{place} has {value.keys() - shape.keys()}"
        for name, one in value.items():
            check_fields(one, shape[name], f"{place}.{name}")


def test_the_kubernetes_job_has_the_fields_that_kuberay_knows() -> None:
    job = described("cluster-kuberay.yaml")
    check_fields(job, RAY_JOB)
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    with pytest.raises(AssertionError, match="workerGroupSpec"):
        check_fields({"spec": {"rayClusterSpec": {"workerGroupSpec": []}}}, RAY_JOB)


def test_the_kubernetes_job_runs_a_study_that_its_pods_can_hold() -> None:
    run, resources = (pytest.importorskip(f"study.{name}") for name in ("run", "cluster.resources"))
    job = described("cluster-kuberay.yaml")["spec"]
    python, module, name, *words = shlex.split(job["entrypoint"])
    assert (python, module, name) == ("python", "-m", "study.run")
    asked = run._parser().parse_args(words)
    cluster = job["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    (group,) = cluster["workerGroupSpecs"]
    pod = group["template"]["spec"]
    (worker,) = pod["containers"]
    for container in (head, worker):
        (mount,) = container["volumeMounts"]
        assert asked.data.startswith(f"{mount['mountPath']}/")
        assert asked.results.startswith(f"{mount['mountPath']}/")
        needs = container["resources"]
        assert needs["requests"] == needs["limits"]  # Ray takes the limits for what a pod has
    assert cluster["headGroupSpec"]["template"]["spec"]["volumes"] == pod["volumes"]
    assert head["image"] == worker["image"]
    limits = worker["resources"]["limits"]
    node = {"CPU": int(limits["cpu"]), "GPU": limits["nvidia.com/gpu"]}
    each = resources.Resources(
        gpus_per_worker=asked.gpus_per_worker, cpus_per_worker=asked.cpus_per_worker
    )
    assert resources.trainings_at_once(each, [node]) == 1
    assert resources.loader_workers_on(node, each, at_once=asked.at_once) == 8
    assert asked.at_once == group["maxReplicas"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)


def test_the_kubernetes_job_is_closed_to_strangers_and_of_the_ray_that_is_installed() -> None:
    cluster = described("cluster-kuberay.yaml")["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_image_leaves_out_what_git_does_and_keeps_what_the_set_up_needs() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert ".venv" in ignored
    assert ".git" not in ignored  # each result names the commit that it came from
    text = (ROOT / "Dockerfile").read_text()
    assert "COPY . ." in text
    assert "--constraint constraints.txt" in text
