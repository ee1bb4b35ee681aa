"""Rule advance: take a parent or a branch from one checkpoint to the next."""

from twophase.checkpoint import checkpoint_of, save_checkpoint
from twophase.devices import environment, prepare_device
from twophase.jobs import logged_job
from twophase.network_jobs import load_data, load_start
from twophase.replay import run_at


def main(smk):
    """Read the start, train, write the checkpoint."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        data = load_data(smk.input.data, job.recipe, device)
        seed, trajectory, step = int(smk.wildcards.seed), smk.wildcards.trajectory, int(smk.wildcards.step)
        starts = [load_start(path, job.recipe, seed, device, job.log) for path in smk.input.start]
        start = starts[0] if starts else None
        progress = job.progress(step - (start.step if start else 0))
        run, losses = run_at(
            data, job.settings, seed=seed, trajectory=trajectory, step=step, start=start, progress=progress
        )
        checkpoint = checkpoint_of(
            run, trajectory=trajectory, recipe=job.recipe_text, losses=losses, environment=environment(device)
        )
        save_checkpoint(smk.output.checkpoint, checkpoint)


if "snakemake" in globals():
    main(snakemake)
