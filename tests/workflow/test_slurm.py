"""The workflow on a real SLURM of one machine: the same bits as locally, and every accident there with its end."""

import signal
import subprocess
import time
from pathlib import Path

import pytest
import xarray as xr
from conftest import bare_study
from project import Project, netcdf_files
from slurm_cluster import SlurmCluster
from test_control_and_interruption import assert_same_bits

# The profile as it stands, but for what this cluster lacks (a database of jobs) and for waiting less.
PROFILE = ("--workflow-profile", "workflow/profiles/slurm", "--slurm-status-command", "squeue")
QUICK = ("--slurm-init-seconds-before-status-checks", "10", "--latency-wait", "10")
TARGET = "results/short/seed0/parent/step5.pt"
# A network that takes its time while the file `slow` is there.
SLOW_NETWORK = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.linear = nn.Linear(inputs, classes)

    def forward(self, images):
        while Path("slow").exists():
            time.sleep(0.1)
        return self.linear(images.flatten(1))

def build(image_shape, classes):
    return Slow(image_shape[0] * image_shape[1] * image_shape[2], classes)
"""


class OnSlurm:
    """A project of one short parent, run on the cluster."""

    def __init__(self, project: Project, cluster: SlurmCluster) -> None:
        self.project, self.cluster = project, cluster

    def start(self, *arguments: str) -> subprocess.Popen:
        log = (self.project.folder / "run.log").open("w")
        return subprocess.Popen(
            self.project.command(*PROFILE, *QUICK, *arguments),
            cwd=self.project.folder,
            env=self.project.environment() | self.cluster.environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def text(self) -> str:
        return (self.project.folder / "run.log").read_text()

    def run(self, *arguments: str, code: int = 0) -> str:
        assert self.start(*arguments).wait(timeout=400) == code, self.text()
        return self.text()

    def job_of(self, rule: str, running: subprocess.Popen) -> str:
        """Number of the rule's SLURM job, once its script trains."""
        log = self.project.folder / "results/short/logs" / rule
        for _ in range(600):
            for number, name, state in self.cluster.running_jobs():
                if f"rule_{rule}_" in name and state == "RUNNING" and any(log.glob("*step5.log")):
                    return number
            assert running.poll() is None, self.text()
            time.sleep(0.2)
        raise AssertionError(self.text())


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Project:
    """The short study with the slow network, made locally."""
    study = bare_study()
    study["model"] = {"name": "slow_network:build"}
    project = Project(tmp_path_factory.mktemp("local"), {"short": study})
    (project.folder / "slow_network.py").write_text(SLOW_NETWORK)
    project.snakemake("--cores", "2", "results/short/history.nc")
    return project


@pytest.fixture(scope="module")
def prepared(reference, cluster, tmp_path_factory) -> Project:
    """The same study up to step 0, made on the cluster."""
    project = Project(tmp_path_factory.mktemp("prepared"), reference.config["studies"])
    (project.folder / "slow_network.py").write_text(SLOW_NETWORK)
    OnSlurm(project, cluster).run("results/short/seed0/parent/step0.pt")
    return project


@pytest.fixture
def on_slurm(prepared, cluster, tmp_path) -> OnSlurm:
    cluster.start()
    return OnSlurm(prepared.copied(tmp_path / "copy"), cluster)


@pytest.fixture
def slow(on_slurm) -> Path:
    """While this file is there, training goes on for ever."""
    path = on_slurm.project.folder / "slow"
    path.touch()
    return path


def finishes_with_the_same_bits(on_slurm: OnSlurm, reference: Project) -> str:
    text = on_slurm.run("results/short/history.nc")
    found = netcdf_files(on_slurm.project.folder)
    for name, path in netcdf_files(reference.folder).items():
        assert_same_bits(xr.open_dataset(path), xr.open_dataset(found[name]), name)
    assert not list((on_slurm.project.folder / "results").rglob(".step*"))
    return text


def test_a_study_has_the_same_bits_as_locally_and_does_not_flood_the_queue(cluster, tmp_path):
    study = bare_study()
    study["chaos"] = {
        "perturbation_steps": [0, 2],
        "comparison_steps": [5],
        "relative_norms": [0.01],
        "growth_steps": 2,
        "evaluation_examples": 50,
        "batch_norm_examples": 40,
    }
    local, project = (Project(tmp_path / name, {"short": study}) for name in ("local", "slurm"))
    local.snakemake("--cores", "2")
    on_slurm = OnSlurm(project, cluster)
    running = on_slurm.start("--jobs", "3")
    longest = 0
    while running.poll() is None:
        longest = max(longest, len(cluster.running_jobs()))
        time.sleep(0.5)
    assert running.returncode == 0, on_slurm.text()
    assert 2 <= longest <= 3
    found = netcdf_files(project.folder)
    for name, path in netcdf_files(local.folder).items():
        assert_same_bits(xr.open_dataset(path), xr.open_dataset(found[name]), name)
    text = on_slurm.text()
    assert "of disk when it is finished" in text
    assert text.count("has been submitted with SLURM jobid") == 8  # what takes seconds runs where Snakemake runs
    # The same on both, so neither redoes the other's work.
    assert project.plan().outputs == {}


def test_a_cancelled_job(on_slurm, slow, reference):
    running = on_slurm.start("--retries", "0", TARGET)
    on_slurm.cluster.cancel(on_slurm.job_of("advance", running))
    assert running.wait(timeout=200) == 1
    assert "SLURM status is: 'CANCELLED'" in on_slurm.text()
    log = on_slurm.project.folder / "results/short/logs/advance/seed0_parent_step5.log"
    assert "error: ended by SIGTERM" in log.read_text()
    assert str(log.relative_to(on_slurm.project.folder)) in on_slurm.text()
    slow.unlink()
    finishes_with_the_same_bits(on_slurm, reference)


def test_a_job_at_its_limit_of_time(on_slurm, slow, reference):
    on_slurm.run("--retries", "0", "--set-resources", "advance:runtime=1", "--", TARGET, code=1)
    assert "SLURM status is: 'TIMEOUT'" in on_slurm.text()
    assert "error: ended by SIGTERM" in on_slurm.text()  # the profile shows the logs of failed jobs
    slow.unlink()
    finishes_with_the_same_bits(on_slurm, reference)


def test_a_lost_node_costs_one_more_try(on_slurm, slow, reference):
    running = on_slurm.start(TARGET)
    number = on_slurm.job_of("advance", running)
    on_slurm.cluster.crash_node(number)
    slow.unlink()
    on_slurm.cluster.start()
    assert running.wait(timeout=300) == 0, on_slurm.text()
    assert "NODE_FAIL" in on_slurm.text()
    finishes_with_the_same_bits(on_slurm, reference)


def test_a_controller_that_is_away_for_a_while(on_slurm, slow, reference):
    running = on_slurm.start(TARGET)
    on_slurm.job_of("advance", running)
    on_slurm.cluster.stop_controller()
    time.sleep(30)
    slow.unlink()
    on_slurm.cluster.start_controller()
    assert running.wait(timeout=300) == 0, on_slurm.text()
    finishes_with_the_same_bits(on_slurm, reference)


def test_jobs_of_a_killed_snakemake_are_cancelled_at_the_next_start(on_slurm, slow, reference):
    running = on_slurm.start(TARGET)
    number = on_slurm.job_of("advance", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert number in [job[0] for job in on_slurm.cluster.running_jobs()]
    slow.unlink()
    (on_slurm.project.folder / "slow").touch()
    again = on_slurm.start(TARGET)
    for _ in range(300):
        if f"cancelled SLURM jobs that a killed run left behind: {number}" in on_slurm.text():
            break
        time.sleep(0.2)
    assert on_slurm.job_of("advance", again) != number
    (on_slurm.project.folder / "slow").unlink()
    assert again.wait(timeout=200) == 0, on_slurm.text()
    finishes_with_the_same_bits(on_slurm, reference)


def test_what_an_outliving_job_finished_is_noticed_after_an_edit(on_slurm, slow):
    """SLURM jobs outlive a killed Snakemake, and what they finish has none of its records."""
    running = on_slurm.start(TARGET)
    on_slurm.job_of("advance", running)
    running.send_signal(signal.SIGKILL)
    running.wait()
    slow.unlink()
    for _ in range(300):
        if (on_slurm.project.folder / TARGET).exists() and not on_slurm.cluster.running_jobs():
            break
        time.sleep(0.2)
    project = on_slurm.project
    assert project.plan(None, TARGET).counts in ({}, {"advance": 1})
    config = project.edited(lambda config: config["studies"]["short"]["optimizer"].update(learning_rate=0.07))
    assert project.plan(config, TARGET).counts["advance"] == 2


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ("advance:runtime=5000", "no partition of workflow/profiles/slurm/partitions.yaml takes that"),
        ("advance:mem_mb=99000", "no partition of workflow/profiles/slurm/partitions.yaml takes that"),
        ("advance:gpu=3", "advance asks for runtime 10, mem_mb "),
        ("advance:slurm_partition=fast", "advance goes to partition 'fast'; SLURM has cpu, gpu"),
    ],
)
def test_a_job_that_slurm_would_never_start_is_refused_before_any_is_submitted(on_slurm, resources, message):
    text = on_slurm.run("--set-resources", resources, "--", TARGET, code=1)
    assert "SLURM would never start these jobs" in text
    assert message in text
    assert "has been submitted" not in text


def test_a_limit_below_that_of_partitions_yaml_is_seen(on_slurm):
    on_slurm.cluster.run("scontrol", "update", "PartitionName=gpu", "MaxTime=5")
    try:
        text = on_slurm.run(TARGET, code=1)
    finally:
        on_slurm.cluster.run("scontrol", "update", "PartitionName=gpu", "MaxTime=1440")
    assert "partition 'gpu' ends jobs after 5 minutes" in text


def test_a_job_has_the_device_that_slurm_gave_it(on_slurm):
    script = on_slurm.project.folder / "workflow/src/twophase/jobs.py"
    device = 'log.info("device %s", os.environ["CUDA_VISIBLE_DEVICES"])'
    script.write_text(
        script.read_text()
        .replace('log.info("done in', f'{device}; log.info("done in')
        .replace("import json\n", "import json\nimport os\n")
    )
    on_slurm.run("--", TARGET)
    log = on_slurm.project.folder / "results/short/logs/advance/seed0_parent_step5.log"
    assert "device 0" in log.read_text() or "device 1" in log.read_text()
