"""Rule collect_pointwise: gradient noise and sharpness of all parents of a study in one file."""

from pathlib import Path

from twophase.jobs import logged_job
from twophase.pointwise import runs_side_by_side
from twophase.provenance import place_of
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read the measures of each seed, write them side by side."""
    with logged_job(smk) as job:
        runs = {}
        for path in map(Path, smk.input.measures):  # .../seed{seed}/pointwise.nc
            seed = int(path.parent.name.removeprefix("seed"))
            runs[seed] = read_dataset(path, recipe=job.recipe_of("measures"), place=place_of({"seed": seed}))
        pointwise = runs_side_by_side(runs, **job.settings)
        title = f"Gradient noise and sharpness along the parents of study {smk.wildcards.study}"
        write_dataset(smk.output.pointwise, pointwise, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
