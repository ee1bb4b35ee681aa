"""Rule collect_phase_diagram: all tiles of a phase diagram on one grid."""

from twophase.jobs import logged_job
from twophase.phase_diagram.relative_distance import grid_of
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read the tiles, write the grid."""
    with logged_job(smk) as job:
        tiles = (read_dataset(path, recipe=job.recipe_of("tile")) for path in smk.input.tiles)
        distances = grid_of(tiles, **job.settings)
        title = f"Relative distances of phase diagram {smk.wildcards.diagram}"
        write_dataset(smk.output.distances, distances, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
