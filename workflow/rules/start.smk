"""What is said and checked when a run starts: its disk, its time, and on SLURM whether its jobs can run at all."""

import shutil

from twophase.errors import SchedulerError
from twophase.slurm import cancel_left_over_jobs, check_limits


def say(message):
    print(f"twophase: {message}", file=sys.stderr, flush=True)


def check_disk():
    """Say how much disk the finished studies take; refuse to start if what is missing has no room."""
    missing = 0
    for name in STUDIES:
        sizes = estimates(name).disk_bytes(keep_checkpoints=CONFIG.keep_checkpoints)
        there = sum(path.stat().st_size for path in Path(f"results/{name}").rglob("*") if path.is_file())
        missing += max(0, sum(sizes.values()) - there)
        parts = ", ".join(f"{what} {size / 1e6:,.0f} MB" for what, size in sizes.items())
        say(f"{name} takes {sum(sizes.values()) / 1e9:.1f} GB of disk when it is finished ({parts})")
    free = shutil.disk_usage(".").free
    if missing > free:
        raise WorkflowError(
            f"The studies need {missing / 1e9:.1f} GB more, {free / 1e9:.1f} GB are free here. Set keep_checkpoints: "
            "false, a larger training.checkpoint_every or fewer seeds, or put results/ on a larger disk (a link)."
        )


def say_time(jobs):
    """Say how long the jobs take, roughly."""
    seconds = sum(
        work_of(job.rule.name, job.wildcards).seconds / (CONFIG.device_speed if job.resources.get("gpu") else 1)
        for job in jobs
        if {"study", "diagram"} & set(job.wildcards.keys()) and not job.is_local
    )
    say(f"{len(jobs)} jobs, {seconds / 3600:.1f} hours of one device at device_speed {CONFIG.device_speed:g}, or less")


def check_scheduler(jobs):
    """On SLURM: refuse jobs that no partition takes, cancel those that a killed run left behind."""
    from snakemake_executor_plugin_slurm.partitions import read_partition_file

    settings = workflow.executor_settings
    partitions = read_partition_file(settings.partition_config) if settings.partition_config else []

    def partition_of(job):
        scores = {partition.name: partition.score_job_fit(job) for partition in partitions}
        fitting = {name: score for name, score in scores.items() if score is not None}
        return job.resources.get("slurm_partition") or max(fitting, key=fitting.get, default=None)

    try:
        check_limits([job for job in jobs if not job.is_local], partition_of, str(settings.partition_config))
        if RUNNING and settings.jobname_prefix:
            cancelled = cancel_left_over_jobs(settings.jobname_prefix, Path.cwd())
            if cancelled:
                say(f"cancelled SLURM jobs that a killed run left behind: {', '.join(cancelled)}")
    except SchedulerError as error:
        raise WorkflowError(str(error)) from None


onstart:
    needed = list(workflow.dag.needrun_jobs())
    check_disk()
    say_time(needed)
    if not workflow.local_exec:
        check_scheduler(needed)
