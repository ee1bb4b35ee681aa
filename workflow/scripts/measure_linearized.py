"""Rule measure_linearized: one linearised run beside its parent, from the switch to the end of the run."""

from twophase.devices import environment, prepare_device
from twophase.jobs import logged_job
from twophase.linearized_measures import measure_linearized
from twophase.linearized_runs import linearized_run_at
from twophase.network_jobs import load_data, load_linearized_start, load_start
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import PARENT, anchors_from, parse_trajectory


def main(smk):
    """Replay both to each step, measure, write the measures."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        recipe = job.recipe_of("linearized")
        upstream = recipe["inputs"]["checkpoint"]
        settings = upstream["settings"]
        data = load_data(smk.input.data, upstream, device)
        seed, name = int(smk.wildcards.seed), smk.wildcards.linearized
        switch = parse_trajectory(name)

        def parent_at(step, path):
            start = load_start(path, upstream, seed, device, job.log)
            progress = job.progress(step - start.step, "steps of the parent")
            return run_at(data, settings, seed=seed, trajectory=PARENT, step=step, start=start, progress=progress)[0]

        def linearized_at(step, path):
            start = load_linearized_start(path, recipe, seed, device, job.log)
            return linearized_run_at(
                data,
                settings,
                recipe["settings"],
                seed=seed,
                switch=switch,
                step=step,
                start=start,
                progress=job.progress(step - start.step),
            )[0]

        steps = anchors_from(switch.switch_step, **job.settings["anchors"])
        pairs = (
            (step, linearized_at(step, own), parent_at(step, parent))
            for step, own, parent in zip(steps, smk.input.linearized, smk.input.parent, strict=True)
        )
        measures = measure_linearized(pairs, data, **job.settings["measures"], optimizer=settings["optimizer"])
        write_dataset(
            smk.output.measures,
            measures,
            title=f"Parent of seed {seed} linearised at step {switch.switch_step}, trained on and measured",
            recipe=job.recipe_text,
            place=job.place,
            environment=environment(device),
        )


if "snakemake" in globals():
    main(snakemake)
