"""The SLURM cluster that other tests run on: it gives devices, enforces limits, breaks on demand, stays on loopback."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import (
    SYSTEM_CONF,
    SlurmCluster,
    all_processes,
    command_line,
    listening_addresses,
    reason_not_to_run,
    wait_until,
)

GPU_0, GPU_1 = "0", "1"


@pytest.fixture(autouse=True)
def whole_and_idle(cluster):
    """Whatever a test breaks or leaves running, the next one finds in order."""
    cluster.start()
    yield
    cluster.start()
    cluster.cancel(*(job for job, _, _ in cluster.running_jobs()))
    wait_until(lambda: not cluster.running_jobs(), 10, "all jobs are cancelled")


def submitted(cluster: SlurmCluster, script: str, *options: str) -> str:
    """The number of a job that runs a shell script; its output is in the file ``NUMBER.out``."""
    output = f"--output={cluster.folder}/%j.out"
    return cluster.run("sbatch", "--parsable", output, *options, f"--wrap={script}").strip()


def output_of(cluster: SlurmCluster, job: str) -> str:
    return (cluster.folder / f"{job}.out").read_text()


def wait_for(cluster: SlurmCluster, state: str, *jobs: str) -> None:
    wait_until(lambda: {cluster.states()[job] for job in jobs} == {state}, 20, f"jobs {jobs} are {state}")


def running(cluster: SlurmCluster, script: str, *options: str) -> str:
    """A submitted job whose script has begun."""
    job = submitted(cluster, f"echo begun; {script}", *options)
    wait_until(lambda: (cluster.folder / f"{job}.out").exists() and output_of(cluster, job), 20, f"job {job} begins")
    return job


def processes_with(pattern: str) -> list[str]:
    """Command lines of living processes in which a pattern occurs."""
    lines = (" ".join(command_line(pid)) for pid in all_processes())
    return [line for line in lines if re.search(pattern, line)]


@pytest.mark.parametrize(("gpus", "devices"), [(1, "0"), (2, "0,1")])
def test_a_job_sees_the_gpus_that_it_was_given(cluster, gpus, devices):
    seen = cluster.run("srun", "--partition=gpu", f"--gpus={gpus}", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES")
    assert seen.strip() == devices


def test_a_job_for_a_gpu_is_refused_where_there_is_none(cluster):
    with pytest.raises(RuntimeError, match="Requested node configuration is not available"):
        submitted(cluster, "true", "--partition=cpu", "--gpus=1")
    with pytest.raises(RuntimeError, match="Requested node configuration is not available"):
        submitted(cluster, "true", "--partition=gpu", "--gpus=3")


def test_four_jobs_share_two_gpus_and_never_one_gpu(cluster):
    script = "echo $CUDA_VISIBLE_DEVICES; date +%s.%N; sleep 1; date +%s.%N"
    jobs = [submitted(cluster, script, "--partition=gpu", "--gpus=1") for _ in range(4)]
    wait_for(cluster, "COMPLETED", *jobs)
    rows = [output_of(cluster, job).split() for job in jobs]
    for gpu in (GPU_0, GPU_1):
        (_, end_of_first), (start_of_second, _) = sorted(
            (float(start), float(end)) for device, start, end in rows if device == gpu
        )
        assert end_of_first < start_of_second
    firsts = sorted((float(start), device) for device, start, _ in rows)[:2]
    assert {device for _, device in firsts} == {GPU_0, GPU_1}
    assert firsts[1][0] - firsts[0][0] < 1  # side by side


def test_a_job_over_its_memory_is_killed(cluster):
    greedy = shlex.join([sys.executable, "-c", "import time; x = b'x' * (400 << 20); time.sleep(30)"])
    modest = shlex.join([sys.executable, "-c", "import time; x = b'x' * (20 << 20); time.sleep(3)"])
    over, under = (submitted(cluster, f"exec {script}", "--mem=100") for script in (greedy, modest))
    wait_until(lambda: cluster.states()[over] not in ("PENDING", "RUNNING", "COMPLETING"), 20, "the job is killed")
    assert cluster.states()[over] in ("FAILED", "OUT_OF_MEMORY")
    assert "exceeded memory limit" in output_of(cluster, over)
    wait_for(cluster, "COMPLETED", under)


def test_jobs_have_a_name_or_a_comment(cluster):
    named = submitted(cluster, "sleep 60", "--job-name=some_name")
    commented = submitted(cluster, "sleep 60", "--job-name=some_name", "--comment=rule_of_a_job")
    names = {job: name for job, name, _ in cluster.running_jobs()}
    assert names == {named: "some_name", commented: "rule_of_a_job"}
    cluster.cancel(named)
    wait_for(cluster, "CANCELLED", named)


def test_a_job_goes_on_while_the_controller_is_away(cluster):
    job = running(cluster, "sleep 2; echo done")
    cluster.stop_controller()
    wait_until(lambda: "done" in output_of(cluster, job), 10, "the job ends")
    cluster.start_controller()
    wait_for(cluster, "COMPLETED", job)


def test_a_job_survives_a_restart_of_its_nodes_daemon(cluster):
    job = running(cluster, "sleep 3; echo done", "--partition=gpu", "--gpus=1")
    cluster.daemons["gpu0"].end()
    cluster.start()
    wait_for(cluster, "COMPLETED", job)
    assert "done" in output_of(cluster, job)


def test_a_node_that_crashes_takes_all_its_jobs_along_and_comes_back(cluster):
    elsewhere = running(cluster, "sleep 60")
    orphan = "(setsid sleep 612.5 &)"  # has lost its parent
    jobs = [running(cluster, f"{orphan}; srun sleep 613.5", "--partition=gpu", "--gpus=1") for _ in range(2)]
    wait_until(lambda: len(processes_with("/sleep 613.5")) == 2, 10, "both steps run")
    assert len(processes_with("sleep 612.5")) == 2
    cluster.crash_node(jobs[0])
    assert not processes_with("sleep 61[23].5")
    assert cluster.daemons["gpu0"].pid is None
    cluster.start()
    wait_for(cluster, "NODE_FAIL", *jobs)
    assert cluster.states()[elsewhere] == "RUNNING"
    assert cluster.run("srun", "--partition=gpu", "--gpus=2", "echo", "back") == "back\n"
    with pytest.raises(ValueError, match="needs a running job"):
        cluster.crash_node(jobs[0])


def test_nothing_is_heard_beyond_loopback(cluster):
    running(cluster, "srun sleep 614.5")
    wait_until(lambda: processes_with("/sleep 614.5"), 10, "the step runs")
    assert cluster.listening()
    assert all(address.startswith("127.") for address in cluster.listening())


def test_listening_addresses_are_those_of_the_process():
    before = listening_addresses([os.getpid()])
    with socket.create_server(("127.0.0.3", 0)), socket.create_server(("::1", 0), family=socket.AF_INET6):
        assert listening_addresses([os.getpid()]) == before | {"127.0.0.3", "::1"}
    assert listening_addresses([os.getpid()]) == before


def test_starting_again_changes_nothing(cluster):
    pids = {name: daemon.pid for name, daemon in cluster.daemons.items()}
    conf = cluster.conf.read_text()
    cluster.start()
    assert {name: daemon.pid for name, daemon in cluster.daemons.items()} == pids
    assert cluster.conf.read_text() == conf


def test_a_stop_leaves_no_process_and_no_link_behind(cluster):
    job = running(cluster, "(setsid sleep 615.5 &); sleep 616.5")
    cluster.stop()
    assert not processes_with("sleep 61[56].5")
    assert not processes_with(str(cluster.folder))
    assert not os.path.lexists(SYSTEM_CONF)
    assert reason_not_to_run() is None
    cluster.start()
    assert cluster.states()[job] == "CANCELLED"


def test_two_clusters_are_never_up_at_once(cluster, tmp_path):
    assert "up already" in reason_not_to_run()
    with pytest.raises(TimeoutError):
        SlurmCluster(tmp_path).start()
    assert SYSTEM_CONF.readlink() == cluster.conf


def test_requeue_and_longest_time_can_be_chosen(cluster, tmp_path):
    cluster.stop()
    other = SlurmCluster(tmp_path, requeue=True, max_time="5")
    try:
        other.start()
        job = running(other, "sleep 60", "--partition=gpu", "--time=5")
        too_long = submitted(other, "true", "--time=6")
        other.crash_node(job)
        other.start()
        wait_for(other, "PENDING", job, too_long)
        assert "Partition" in other.run("squeue", f"--jobs={too_long}", "--format=%r")  # its limit is the reason
    finally:
        other.stop()


def test_what_a_killed_test_run_leaves_is_cleared_away(cluster, tmp_path):
    cluster.stop()
    code = f"from pathlib import Path; from slurm_cluster import *; SlurmCluster(Path({str(tmp_path)!r})).start()"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True)
    assert processes_with(str(tmp_path))
    assert reason_not_to_run() is None
    cluster.start()
    assert not processes_with(str(tmp_path))
    assert SYSTEM_CONF.readlink() == cluster.conf
