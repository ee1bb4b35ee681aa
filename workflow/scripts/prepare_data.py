"""Rule prepare_data: a study's images, in the size, colours and number that it uses, as one netCDF."""

from pathlib import Path

from twophase.data import write_images
from twophase.jobs import logged_job
from twophase.sources import Selection, read_images


def main(smk):
    """Read the source, write the prepared images."""
    with logged_job(smk) as job:
        settings = dict(job.settings["data"])
        folder = settings.pop("folder")
        location = Path(smk.input.source[0] if smk.input.source else folder)
        if location.name == "verified.json":
            location = location.parent
        images = read_images(Selection(**settings), location)
        job.log.info("%d training and %d test images", len(images.train_labels), len(images.test_labels))
        write_images(smk.output.data, images, job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
