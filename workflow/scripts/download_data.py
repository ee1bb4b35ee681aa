"""Rule download_data: fetch and verify one of torchvision's data sets."""

from pathlib import Path

from twophase.files import whole_file
from twophase.jobs import logged_job
from twophase.sources import download


def main(smk):
    """Download into the folder of the output, which says that everything was verified."""
    with logged_job(smk) as job:
        verified = Path(smk.output.verified)
        job.log.info("downloading and verifying %s in %s", smk.wildcards.source, verified.parent)
        download(smk.wildcards.source, verified.parent)
        with whole_file(verified) as temporary:
            temporary.write_text(job.recipe_text + "\n")


if "snakemake" in globals():
    main(snakemake)
