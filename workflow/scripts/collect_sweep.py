"""Rule collect_sweep: the transitions and cones of a sweep's cells on one grid."""

from pathlib import Path

from twophase.jobs import logged_job
from twophase.storage import read_dataset, write_dataset
from twophase.sweep import grid_of_cells


def main(smk):
    """Read each cell, write the grid."""
    with logged_job(smk) as job:

        def read(paths, name):  # results/{cell}/*.nc
            return [read_dataset(path, recipe=job.recipe_of(Path(path).parent.name)[name]) for path in paths]

        sweep = grid_of_cells(
            read(smk.input.transitions, "transition"),
            read(smk.input.openings, "opening"),
            axes=dict(job.settings["axes"]),
            seeds=job.settings["seeds"],
        )
        title = f"Transitions and cones of sweep {smk.wildcards.sweep}"
        write_dataset(smk.output.sweep, sweep, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
