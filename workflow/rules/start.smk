"""What is said and checked when a run starts: its disk, its time, and on SLURM whether its jobs can run at all."""

import shutil
import time

from twophase.errors import SchedulerError
from twophase.slurm import cancel_left_over_jobs, check_limits
from twophase.stale_locks import held_elsewhere


def size_text(size):
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def check_disk():
    """Say how much disk the finished studies take; refuse to start if what is missing has no room."""
    missing = 0
    for name in STUDIES:
        sizes = estimates(name).disk_bytes(keep_checkpoints=CONFIG.keep_checkpoints)
        there = sum(path.stat().st_size for path in Path(f"results/{name}").rglob("*") if path.is_file())
        parts = ", ".join(f"{what} {size_text(size)}" for what, size in sizes.items())
        if estimates(name).assumed:
            parts += f"; a network of your own is taken to have {estimates(name).network.parameters:,} parameters"
        else:
            missing += max(0, sum(sizes.values()) - there)
        say(f"{name} takes {size_text(sum(sizes.values()))} of disk when it is finished ({parts})")
    results = Path("results").resolve()  # may be a link to another disk
    if results.exists() and not os.access(results, os.W_OK):
        raise WorkflowError(
            f"{results} can't be written to; mount it for writing, or give yourself the right to write."
        )
    free = shutil.disk_usage(results if results.exists() else ".").free
    if missing > free:
        deleting = "keep_checkpoints: false, " if CONFIG.keep_checkpoints else ""
        raise WorkflowError(
            f"The studies need {size_text(missing)} more, {size_text(free)} are free here. Set {deleting}a larger "
            "training.checkpoint_every or fewer seeds, or put results/ on a larger disk (a link)."
        )


def say_time(jobs):
    """Say how long the jobs take, roughly."""
    seconds = sum(
        work_of(job.rule.name, job.wildcards).seconds / speed_of(job.rule.name)
        for job in jobs
        if "runtime" in job.rule.resources and job.wildcards  # what takes seconds has no limit of its own
    )
    time_text = f"{seconds / 3600:.0f} hours" if seconds > 7200 else f"{seconds / 60:.0f} minutes"
    say(
        f"{len(jobs)} jobs, at most about {time_text} of one device (device_speed {CONFIG.device_speed:g}), "
        "besides the starts of jobs"
    )


def check_scheduler(jobs):
    """On SLURM: refuse jobs that no partition takes, cancel those that a killed run left behind."""
    import snakemake_executor_plugin_slurm as plugin
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    settings = workflow.executor_settings
    if settings.status_command == "squeue":
        # When the controller doesn't answer at once, the plugin turns to sacct, which knows no jobs where squeue was
        # chosen for want of a database; after a round of failures it would forget its jobs and wait for ever.
        plugin.is_query_tool_available = lambda tool: tool != "sacct"
    partitions = read_partition_file(settings.partition_config) if settings.partition_config else []

    def partition_of(job):
        scores = {partition.name: partition.score_job_fit(job) for partition in partitions}
        fitting = {name: score for name, score in scores.items() if score is not None}
        return job.resources.get("slurm_partition") or max(fitting, key=fitting.get, default=None)

    # Without a list of partitions, a job that names none goes to SLURM's own default.
    submitted = [job for job in jobs if not job.is_local and (partitions or job.resources.get("slurm_partition"))]
    try:
        check_limits(submitted, partition_of, str(settings.partition_config))
        if RUNNING and settings.jobname_prefix:
            cancelled = cancel_left_over_jobs(settings.jobname_prefix, Path.cwd())
            if cancelled:
                say(f"cancelled SLURM jobs that a killed run left behind: {', '.join(cancelled)}")
    except SchedulerError as error:
        raise WorkflowError(str(error)) from None


def wait_for_the_folder():
    """Hold the lock of `twophase.stale_locks` before the first job starts, and until this process ends.

    Snakemake's own lock is ours by now. Whoever had this one, a dry run or a report, may have kept us from taking it;
    without it the next Snakemake would take our locks for those of a dead one.
    """
    global RUNNING
    for attempt in range(60):
        RUNNING = RUNNING or clear_stale_locks(Path(".snakemake"), remove=False)
        if RUNNING or not held_elsewhere(Path(".snakemake")):  # where there are no locks, there is none to wait for
            return
        if attempt == 0:
            say("another Snakemake (a dry run, a report) works in this folder; waiting for it to end")
        time.sleep(1.0)
    raise WorkflowError("Another Snakemake (a dry run, a report) works in this folder; start again when it has ended.")


onstart:
    wait_for_the_folder()
    needed = list(workflow.dag.needrun_jobs())
    check_disk()
    say_time(needed)
    if not workflow.local_exec:
        check_scheduler(needed)
