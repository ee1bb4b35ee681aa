"""Rule compute_entk: the eNTK of the parent at one step on the study's probe examples."""

from twophase.data import class_balanced_examples
from twophase.devices import environment, prepare_device
from twophase.entk import empirical_ntk
from twophase.jobs import logged_job
from twophase.kernel_files import kernel_dataset
from twophase.models import core_of
from twophase.network_jobs import load_data, load_start
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import PARENT


def main(smk):
    """Replay the parent to the step, compute the kernel, write it."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        upstream = job.recipe_of("checkpoint")
        data = load_data(smk.input.data, upstream, device)
        seed, step = int(smk.wildcards.seed), int(smk.wildcards.step)
        start = load_start(smk.input.start, upstream, seed, device, job.log)
        replay = job.progress(step - start.step)
        run, _ = run_at(
            data, upstream["settings"], seed=seed, trajectory=PARENT, step=step, start=start, progress=replay
        )
        probe = class_balanced_examples(data.train_labels, job.settings["probe_examples"])
        network, scale = core_of(run.network.eval())
        kernel = empirical_ntk(
            network,
            data.train_images[probe],
            kernel=job.settings["kernel"],
            memory_budget=smk.resources.entk_memory_mb * 1_000_000,
            progress=job.progress(len(probe) * (len(probe) + 1) // 2, "pairs of examples"),
        )
        kernel *= scale**2  # in place: the budget holds one kernel
        labels = data.train_labels[probe]
        write_dataset(
            smk.output.kernel,
            kernel_dataset(kernel, probe, labels, data.class_names, seed=seed, step=step),
            title=f"Empirical neural tangent kernel of seed {seed} at step {step}",
            recipe=job.recipe_text,
            place=job.place,
            environment=environment(device),
        )


if "snakemake" in globals():
    main(snakemake)
