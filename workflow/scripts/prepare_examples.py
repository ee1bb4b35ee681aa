"""Rule prepare_examples: what the networks of a phase diagram learn, points of a line or images."""

from twophase.jobs import logged_job
from twophase.phase_diagram.examples import examples_from_images, examples_from_points
from twophase.sources import read_selected
from twophase.storage import write_dataset


def main(smk):
    """Read points or images, write inputs and targets."""
    with logged_job(smk) as job:
        if "points" in job.settings:
            examples = examples_from_points(**job.settings["points"])
        else:
            images = read_selected(job.settings["data"], smk.input.source)
            examples = examples_from_images(images.train_images, images.train_labels, len(images.class_names))
        job.log.info("%d examples of %d inputs", *examples.inputs.shape)
        title = f"Examples of phase diagram {smk.wildcards.diagram}"
        write_dataset(smk.output.data, examples, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
