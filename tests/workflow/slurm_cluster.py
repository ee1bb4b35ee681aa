"""A real SLURM cluster on this one machine, for the tests: thrown away afterwards, heard on loopback only.

Partition ``cpu`` is the node cpu0, partition ``gpu`` the node gpu0 with two pretended GPUs, so that a job sent to the
wrong partition is refused as on a large cluster. Made for SLURM 22.05, Debian's packages slurm-wlm and munge.
"""

import contextlib
import ipaddress
import itertools
import os
import random
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
import zlib
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

# Daemons lie where many users' paths, and those of CI, don't lead.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
PACKAGES = ("slurm-wlm", "munge")
NODES = ("cpu0", "gpu0")
GPUS = 2
# Where programs look that lost SLURM_CONF, as job steps of Snakemake's plugin do; a link while a cluster is up.
SYSTEM_CONF = Path("/etc/slurm/slurm.conf")
CONF_NAME = "twophase-test-slurm.conf"
# Held from start to stop by the process that tests, so never two clusters at once; free as soon as it dies.
MACHINE_LOCK = Path("/run/twophase-test-slurm.lock")
# Runs a command under the host name localhost, seen by it and its children alone.
AS_LOCALHOST = ("unshare", "--uts", "sh", "-c", 'echo localhost >/proc/sys/kernel/hostname && exec "$@"', "sh")

CONF = """\
ClusterName={name}
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
# Listen at the address of the host's name, which is loopback, never at 0.0.0.0.
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/%n.log
# No cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
# No database: squeue tells how jobs ended, so they stay listed.
AccountingStorageType=accounting_storage/none
MinJobAge=86400
# A job that takes more memory than it asked for is killed; looked at each second.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=500
GresTypes=gpu
# Nodes may claim more than this machine has.
SlurmdParameters=config_overrides
# React fast.
SchedulerParameters=bf_interval=2,sched_interval=2,sched_min_interval=100000,batch_sched_delay=1
KillWait=2
SlurmctldTimeout=20
SlurmdTimeout=10
MessageTimeout=20
BatchStartTimeout=20
UnkillableStepTimeout=30
InactiveLimit=0
ReturnToService=2
JobRequeue={requeue}
NodeName=cpu0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=16000
NodeName=gpu0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=16000 Gres=gpu:{gpus}
PartitionName=cpu Nodes=cpu0 Default=YES MaxTime={max_time} DefaultTime=10 State=UP
PartitionName=gpu Nodes=gpu0 Default=NO  MaxTime={max_time} DefaultTime=10 State=UP
"""


def reason_not_to_run() -> str | None:
    """Why there can be no cluster here; missing packages are installed if nothing else stands against it."""
    if os.geteuid() != 0:
        return "not root"
    return reason_without_room() or reason_without_loopback() or reason_without_devices() or reason_without_programs()


def reason_without_room() -> str | None:
    """A real cluster's machine, or other tests that have theirs up."""
    if os.path.lexists(SYSTEM_CONF) and not (SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink().name == CONF_NAME):
        return f"{SYSTEM_CONF} belongs to another cluster"
    try:
        with FileLock(MACHINE_LOCK, timeout=0):
            return None
    except Timeout:
        return "a cluster of these tests is up already"


def reason_without_loopback() -> str | None:
    """SLURM listens where the host's name points to; anything but loopback could be seen from outside."""
    if is_loopback(socket.gethostname()):
        return None
    if not is_loopback("localhost"):
        return "no network but loopback: SLURM resolves no name then, not even localhost"
    if subprocess.run([*AS_LOCALHOST, "true"], capture_output=True, check=False).returncode:
        return f"the host's name {socket.gethostname()} is not 127.0.0.1 and can't be changed for SLURM alone"
    return None


def reason_without_devices() -> str | None:
    """The pretended GPUs are device files, which not every container may make."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            make_device(Path(folder) / "gpu0")
        except OSError as error:
            return f"no device file can be made: {error}"
    return None


def reason_without_programs() -> str | None:
    """Install what is missing; why that failed."""
    if all(map(shutil.which, PROGRAMS)):
        return None
    if not shutil.which("apt-get"):
        return "no apt-get and no slurmctld"
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "--quiet=2", *arguments],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    return f"packages can't be installed: no {missing}, {done.stdout.strip()[-500:]}" if missing else None


class SlurmCluster:
    """The cluster, with all that it writes in one folder.

    Clients that are not called through ``run`` need ``environment``.

    Args:
        folder: Made if missing; after a stop, a start finds the jobs of before.
        requeue: Whether SLURM itself starts the jobs of a dead node again, its default.
        max_time: The longest that a job may ask for, in SLURM's notation.
    """

    def __init__(self, folder: Path, *, requeue: bool = False, max_time: str = "1-00:00:00") -> None:
        self.folder = folder.resolve()
        self.conf = self.folder / CONF_NAME
        self.environment = {"SLURM_CONF": str(self.conf)}
        self.daemons = daemons_of(self.folder)
        self._lock = FileLock(MACHINE_LOCK, timeout=0)
        self._as_host = () if is_loopback(socket.gethostname()) else AS_LOCALHOST
        self._settings = {
            "name": f"twophase{zlib.crc32(bytes(self.folder)):08x}",
            "folder": self.folder,
            "gpus": GPUS,
            "requeue": int(requeue),
            "max_time": max_time,
        }

    def start(self) -> None:
        """Start every daemon that is not alive, and wait until both nodes take jobs."""
        if not self._lock.is_locked:
            self._lock.acquire()
        try:
            if not any(daemon.pid for daemon in self.daemons.values()):
                self._take_system_conf()
                self._write_files()
            for name in self.daemons:
                self._start_daemon(name)
            wait_until(self._nodes_take_jobs, 30, "both nodes take jobs")
            beyond = {address for address in self.listening() if not address.startswith("127.")}
            if beyond:
                raise RuntimeError(f"SLURM listened beyond loopback, at {beyond}; it is stopped.")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel all jobs, end the daemons by their pid files, and leave no process and no link behind."""
        with contextlib.suppress(
            RuntimeError, TimeoutError, subprocess.TimeoutExpired
        ):  # What can't be cancelled is killed below.
            if self.daemons["slurmctld"].pid:
                self.cancel(*(job for job, _, _ in self.running_jobs()))
                wait_until(lambda: not self.running_jobs(), 5)
        for daemon in reversed(self.daemons.values()):
            daemon.end()
        kill_all(self._job_processes)
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink() == self.conf:
            SYSTEM_CONF.unlink()
        self._lock.release()

    def run(self, *command: str) -> str:
        """What a client command prints; an error with its message if it fails."""
        done = subprocess.run(
            [*self._as_host, *command],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
        return done.stdout

    def running_jobs(self) -> list[tuple[str, str, str]]:
        """Number, comment (or else name) and state of each job that has not ended."""
        lines = self.run("squeue", "--noheader", "--format=%A\t%k\t%j\t%T").splitlines()
        rows = [line.split("\t") for line in lines]
        return [(job, name if comment in ("", "(null)") else comment, state) for job, comment, name, state in rows]

    def states(self) -> dict[str, str]:
        """The state of each job by its number, ended ones too."""
        return dict(map(str.split, self.run("squeue", "--noheader", "--states=all", "--format=%A %T").splitlines()))

    def cancel(self, *job_ids: str) -> None:
        if job_ids:
            self.run("scancel", *job_ids)

    def crash_node(self, job_id: str) -> None:
        """The node of a running job loses its power: its daemon and the processes of all its jobs are killed.

        SLURM is told so, which would otherwise take half a minute to find out. The node comes back with ``start``.
        """
        node = self.run("squeue", "--noheader", f"--jobs={job_id}", "--format=%N").strip()
        if node not in NODES:
            raise ValueError(f"crash_node needs a running job, got job {job_id} on node {node!r}.")
        jobs = self.run("squeue", "--noheader", f"--nodelist={node}", "--format=%A").split()
        self.daemons[node].end(signal.SIGKILL)
        kill_all(lambda: self._job_processes(jobs))
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=no power")

    def stop_controller(self) -> None:
        """Jobs go on; a client command fails after trying for 20 s."""
        self.daemons["slurmctld"].end()

    def start_controller(self) -> None:
        self._start_daemon("slurmctld")

    def listening(self) -> set[str]:
        """Every address at which the daemons, and the job processes of now, listen."""
        pids = [daemon.pid for daemon in self.daemons.values() if daemon.pid]
        return listening_addresses([*pids, *self._job_processes()])

    def _start_daemon(self, name: str) -> None:
        daemon = self.daemons[name]
        if daemon.pid:
            return
        with (self.folder / "log" / f"{name}.log").open("a+") as log:  # A file, not a pipe: the daemon holds it open.
            subprocess.run(
                [*self._as_host, *daemon.command],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
            try:
                wait_until(lambda: daemon.pid, 10)
            except TimeoutError:
                log.seek(0)
                raise RuntimeError(f"{name} did not start:\n{log.read()[-2000:]}") from None

    def _nodes_take_jobs(self) -> bool:
        states = dict(map(str.split, self.run("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()))
        for node, state in states.items():
            if state.startswith(("down", "drain")):
                self.run("scontrol", "update", f"nodename={node}", "state=resume")
        return all(state in ("idle", "mixed", "allocated", "completing") for state in states.values())

    def _take_system_conf(self) -> None:
        """Point the system's link here; a killed test run may have left its own there, and its daemons."""
        if SYSTEM_CONF.is_symlink() and SYSTEM_CONF.readlink() != self.conf:
            SlurmCluster(SYSTEM_CONF.readlink().parent).stop()
        if not SYSTEM_CONF.is_symlink():
            SYSTEM_CONF.parent.mkdir(parents=True, exist_ok=True)
            SYSTEM_CONF.symlink_to(self.conf)

    def _write_files(self) -> None:
        for name in ("munge", "run", "state", "log", "gpus", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "munge").chmod(0o700)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        for gpu in range(GPUS):
            make_device(self.folder / "gpus" / f"gpu{gpu}")
        gpus = f"NodeName=gpu0 Name=gpu File={self.folder}/gpus/gpu[0-{GPUS - 1}]\n"
        (self.folder / "gres.conf").write_text(gpus)
        self.conf.write_text(CONF.format(ports=free_ports(3), **self._settings))

    def _job_processes(self, jobs: Container[str] | None = None) -> set[int]:
        """All processes of these jobs, or of all jobs: SLURM's own, what they started, what lost its parent."""
        job_of = {pid: self._job_of(pid) for pid in all_processes()}
        return with_descendants({pid for pid, job in job_of.items() if job and (jobs is None or job in jobs)})

    def _job_of(self, pid: int) -> str | None:
        """The job that a process names in its variables or, SLURM's own ones, in its title."""
        variables = environment_of(pid)
        if variables.get("SLURM_CLUSTER_NAME") == self._settings["name"]:
            return variables.get("SLURM_JOB_ID")
        title = re.match(r"slurmstepd: \[(\d+)", " ".join(command_line(pid)))
        return title[1] if title and variables.get("SLURM_CONF") == str(self.conf) else None


@dataclass(frozen=True)
class Daemon:
    """A program that goes to the background and writes its process id to a file."""

    command: list[str]
    pid_file: Path

    @property
    def pid(self) -> int | None:
        """Of the living daemon; a number that another program has by now is none."""
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if command_line(pid) == self.command else None

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, by force if it takes longer than 10 s."""
        pid = self.pid
        if not pid:
            return
        os.kill(pid, how)
        try:
            wait_until(lambda: not self.pid, 10)
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)


def daemons_of(folder: Path) -> dict[str, Daemon]:
    """In the order in which they are started."""
    pid_files = {name: folder / "run" / f"{name}.pid" for name in ("munged", "slurmctld", *NODES)}
    munged = [
        "munged",
        "--force",  # Folders above may be writable by others, as /tmp is.
        f"--key-file={folder}/munge/key",
        f"--seed-file={folder}/munge/seed",
        f"--socket={folder}/run/munge.socket",
        f"--pid-file={pid_files['munged']}",
        f"--log-file={folder}/log/munged.log",
    ]
    conf = ["-f", str(folder / CONF_NAME)]
    commands = [munged, ["slurmctld", *conf], *(["slurmd", "-N", node, *conf] for node in NODES)]
    return {name: Daemon(command, pid_files[name]) for name, command in zip(pid_files, commands, strict=True)}


def wait_until(condition: Callable[[], object], seconds: float, what: str = "") -> None:
    """Ask ten times a second; a TimeoutError says what did not come true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"Not within {seconds} s: {what}.")
        time.sleep(0.1)


def is_loopback(name: str) -> bool:
    """Whether a name, resolved as SLURM does it, is 127.0.0.1 and nothing else.

    Debian's 127.0.1.1 does not do: connections to it come from 127.0.0.1, where SLURM then answers in vain.
    """
    try:
        found = socket.getaddrinfo(name, None, socket.AF_INET, flags=socket.AI_ADDRCONFIG)
    except socket.gaierror:
        return False
    return {address for *_, (address, _) in found} == {"127.0.0.1"}


def free_ports(number: int) -> list[int]:
    """Free now, and below the range of outgoing connections, so that a daemon finds its port free again."""

    def is_free(port: int) -> bool:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return True
        return False

    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    candidates = random.sample(range(first_outgoing // 2, first_outgoing), 100)
    return list(itertools.islice(filter(is_free, candidates), number))


def make_device(path: Path) -> None:
    """SLURM counts only device files as GPUs; it never opens them, so a twin of /dev/null does."""
    if not path.exists():
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def all_processes() -> set[int]:
    return {int(path.name) for path in Path("/proc").glob("[0-9]*")}


def command_line(pid: int) -> list[str]:
    """Empty for a dead process, also one that its parent did not bury yet."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def environment_of(pid: int) -> dict[str, str]:
    """The variables that a process was started with; none of a dead one."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return {}
    return dict(variable.split("=", 1) for variable in text.split("\0") if "=" in variable)


def parent_of(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def with_descendants(pids: set[int]) -> set[int]:
    parents = {pid: parent_of(pid) for pid in all_processes()}
    while more := {pid for pid, parent in parents.items() if parent in pids} - pids:
        pids = pids | more
    return pids


def kill_all(find: Callable[[], set[int]]) -> None:
    """Kill until none is found, since one may have forked meanwhile."""

    def none_left() -> bool:
        found = find()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found

    wait_until(none_left, 10, "all processes of the jobs are dead")


def listening_addresses(pids: Iterable[int]) -> set[str]:
    """Every address at which one of the processes waits for TCP connections."""
    sockets = set()
    for descriptor in itertools.chain(*(Path("/proc").glob(f"{pid}/fd/*") for pid in pids)):
        with contextlib.suppress(FileNotFoundError):
            sockets.add(os.readlink(descriptor))
    addresses = set()
    for table in filter(Path.exists, (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))):
        for fields in map(str.split, table.read_text().splitlines()[1:]):
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(readable_address(fields[1].partition(":")[0]))
    return addresses


def readable_address(text: str) -> str:
    """From the kernel's hexadecimal words, which are in this machine's byte order."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))
