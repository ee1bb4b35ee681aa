"""Rule compare_branch: one branch against its parent, at every t1 and in the steps after t0."""

from twophase.branch_comparison import compare_branch
from twophase.devices import environment, prepare_device
from twophase.jobs import logged_job
from twophase.network_jobs import load_data, load_start
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import PARENT, parse_trajectory


def main(smk):
    """Replay both to each step that is compared, measure, write the comparison."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        upstream = job.recipe_of("checkpoint")
        data = load_data(smk.input.data, upstream, device)
        seed, trajectory = int(smk.wildcards.seed), smk.wildcards.trajectory
        t0 = parse_trajectory(trajectory).t0

        def network_run(name, step, path):
            start = load_start(path, upstream, seed, device, job.log)
            progress = job.progress(step - start.step, f"steps of {name}")
            return run_at(
                data, upstream["settings"], seed=seed, trajectory=name, step=step, start=start, progress=progress
            )[0]

        pairs = (
            (t1, network_run(PARENT, t1, parent), network_run(trajectory, t1, branch))
            for t1, parent, branch in zip(
                [t1 for t1 in job.settings["comparison_steps"] if t1 > t0],
                smk.input.parent,
                smk.input.branch,
                strict=True,
            )
        )
        both_at_t0 = [network_run(name, t0, smk.input.before) for name in (PARENT, trajectory)]
        comparison = compare_branch(pairs, both_at_t0, data, **job.settings["measures"], progress=job.log.info)
        write_dataset(
            smk.output.comparison,
            comparison,
            title=f"Branch {trajectory} of seed {seed} compared with its parent",
            recipe=job.recipe_text,
            place=job.place,
            environment=environment(device),
        )


if "snakemake" in globals():
    main(snakemake)
