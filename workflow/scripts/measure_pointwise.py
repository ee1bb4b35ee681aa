"""Rule measure_pointwise: gradient noise and sharpness at single steps of one parent."""

from twophase.devices import environment, prepare_device
from twophase.jobs import logged_job
from twophase.network_jobs import load_data, load_start
from twophase.pointwise_measures import measure_pointwise
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import PARENT


def main(smk):
    """Bring the parent to each step, measure, write the measures."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        upstream = job.recipe_of("checkpoint")
        settings, seed = upstream["settings"], int(smk.wildcards.seed)
        data = load_data(smk.input.data, upstream, device)

        def started(path, step):
            start = load_start(path, upstream, seed, device, job.log)
            progress = job.progress(step - start.step)
            return run_at(data, settings, seed=seed, trajectory=PARENT, step=step, start=start, progress=progress)[0]

        def trained_on(run, step):
            last, progress = run.step, job.progress(step - run.step)
            run.advance(step, progress=lambda reached: progress(reached - last))
            return run

        def run_at_each_step():
            run, begun_at = None, None
            for step, path in zip(job.settings["steps"], smk.input.starts, strict=True):
                # Where no checkpoint lies between, it goes on from the step before.
                run = trained_on(run, step) if path == begun_at else started(path, step)
                begun_at = path
                yield run

        measures = measure_pointwise(run_at_each_step(), data, settings, **job.settings["measures"], log=job.log)
        write_dataset(
            smk.output.measures,
            measures,
            title=f"Gradient noise and sharpness along the parent of seed {seed}",
            recipe=job.recipe_text,
            place=job.place,
            environment=environment(device),
        )


if "snakemake" in globals():
    main(snakemake)
