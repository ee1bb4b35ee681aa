"""Rule advance_linearized: take a linearised run to its next checkpoint, at first from the parent."""

from twophase.checkpoint import checkpoint_of, save_checkpoint
from twophase.devices import environment, prepare_device
from twophase.jobs import logged_job
from twophase.linearized_runs import linearized_run_at
from twophase.network_jobs import load_data, load_linearized_start
from twophase.trajectories import parse_trajectory


def main(smk):
    """Read the start, train, write the checkpoint, of a diverged run too."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        upstream = job.recipe_of("checkpoint")
        data = load_data(smk.input.data, upstream, device)
        seed, name, step = int(smk.wildcards.seed), smk.wildcards.linearized, int(smk.wildcards.step)
        start = load_linearized_start(smk.input.start, job.recipe, seed, device, job.log)
        run, losses = linearized_run_at(
            data,
            upstream["settings"],
            job.settings,
            seed=seed,
            switch=parse_trajectory(name),
            step=step,
            start=start,
            progress=job.progress(step - start.step),
        )
        if run.diverged_at is not None:
            job.log.info("diverged at step %d; this is kept as a result", run.diverged_at)
        checkpoint = checkpoint_of(
            run, trajectory=name, recipe=job.recipe_text, losses=losses, environment=environment(device)
        )
        save_checkpoint(smk.output.checkpoint, checkpoint)


if "snakemake" in globals():
    main(snakemake)
