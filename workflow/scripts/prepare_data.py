"""Rule prepare_data: a study's images, in the size, colours and number that it uses, as one netCDF."""

from twophase.data import write_images
from twophase.jobs import logged_job
from twophase.sources import read_selected


def main(smk):
    """Read the source, write the prepared images."""
    with logged_job(smk) as job:
        images = read_selected(job.settings["data"], smk.input.source)
        job.log.info("%d training and %d test images", len(images.train_labels), len(images.test_labels))
        write_images(smk.output.data, images, job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
