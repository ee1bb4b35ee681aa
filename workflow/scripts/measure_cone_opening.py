"""Rule measure_cone_opening: radius, dimension and confinement of the cone, from the kernels' distances."""

from twophase.cone_opening import opening_of_cone
from twophase.jobs import logged_job
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read the cone, measure its opening, write."""
    with logged_job(smk) as job:
        cone = read_dataset(smk.input.cone, recipe=job.recipe_of("cone"))
        opening = opening_of_cone(cone, **job.settings)
        job.log.info("late kernels: %s (%s)", opening["drift_verdict"].item(), opening["drift_reason"].item())
        title = f"Opening of the cone of study {smk.wildcards.study}: the late kernels' radius, dimension, confinement"
        write_dataset(smk.output.opening, opening, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
