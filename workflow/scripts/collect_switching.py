"""Rule collect_switching: the measures of all linearised runs on one grid."""

from pathlib import Path

from twophase.jobs import logged_job
from twophase.provenance import place_of
from twophase.storage import read_dataset, write_dataset
from twophase.switching import grid_of_switches


def main(smk):
    """Read the measures, write the grid."""
    with logged_job(smk) as job:
        runs = {}
        for path in map(Path, smk.input.measures):  # .../seed{seed}/{linearized}/linearized.nc
            seed = int(path.parent.parent.name.removeprefix("seed"))
            place = place_of({"seed": seed, "linearized": path.parent.name})
            runs[seed, path.parent.name] = read_dataset(path, recipe=job.recipe_of("measures"), place=place)
        switching = grid_of_switches(runs, **job.settings)
        title = f"Linearised switching of study {smk.wildcards.study}"
        write_dataset(smk.output.switching, switching, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
