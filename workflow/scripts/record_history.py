"""Rule record_history: loss, accuracy and learning rate along the parents."""

import numpy as np

from twophase.comparison import accuracy, logits_of, mean_loss
from twophase.devices import environment, prepare_device
from twophase.history import history_of_runs
from twophase.jobs import logged_job
from twophase.network_jobs import load_data, load_start
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import PARENT


def main(smk):
    """Evaluate each checkpoint on the test images, collect the losses they carry, write the history."""
    with logged_job(smk) as job:
        device = prepare_device(smk.threads)
        upstream = job.recipe_of("checkpoint")
        data = load_data(smk.input.data, upstream, device)
        seeds, steps = job.settings["seeds"], job.settings["steps"]
        losses, test_losses, accuracies = ({seed: [] for seed in seeds} for _ in range(3))
        owners = [(seed, step) for seed in seeds for step in steps]
        progress = job.progress(len(owners), "checkpoints")
        for number, ((seed, step), path) in enumerate(zip(owners, smk.input.checkpoints, strict=True)):
            progress(number)
            checkpoint = load_start(path, upstream, seed, device, job.log)
            run, _ = run_at(data, upstream["settings"], seed=seed, trajectory=PARENT, step=step, start=checkpoint)
            logits = logits_of(run.network, data.test_images)
            losses[seed].append(checkpoint.losses.cpu().numpy())
            test_losses[seed].append(mean_loss(logits, data.test_labels))
            accuracies[seed].append(accuracy(logits, data.test_labels))
        history = history_of_runs(
            {seed: np.concatenate(parts) for seed, parts in losses.items()},
            test_losses,
            accuracies,
            steps=steps,
            learning_rate=upstream["settings"]["optimizer"]["learning_rate"],
            schedule=upstream["settings"]["schedule"],
        )
        write_dataset(
            smk.output.history,
            history,
            title=f"Training history of study {smk.wildcards.study}",
            recipe=job.recipe_text,
            environment=environment(device),
        )


if "snakemake" in globals():
    main(snakemake)
