"""Rule collect_chaos: the comparisons of all branches on one grid."""

from pathlib import Path

from twophase.chaos import grid_of_comparisons
from twophase.jobs import logged_job
from twophase.provenance import place_of
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read the comparisons, write the grid."""
    with logged_job(smk) as job:
        comparisons = {}
        for path in map(Path, smk.input.comparisons):  # .../seed{seed}/{trajectory}/comparison.nc
            seed = int(path.parent.parent.name.removeprefix("seed"))
            place = place_of({"seed": seed, "trajectory": path.parent.name})
            comparisons[seed, path.parent.name] = read_dataset(path, recipe=job.recipe_of("comparison"), place=place)
        chaos = grid_of_comparisons(comparisons, **job.settings)
        title = f"Chaos effect of study {smk.wildcards.study}: branches compared with their parents"
        write_dataset(smk.output.chaos, chaos, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
