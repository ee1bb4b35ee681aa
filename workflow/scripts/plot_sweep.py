"""Rule plot_sweep: when training settles and how wide its cone is, against each axis of a sweep."""

from twophase.jobs import logged_job
from twophase.plotting import plot_sweep, save_figure, style_context
from twophase.storage import read_dataset


def main(smk):
    """Read the grid, draw it."""
    with logged_job(smk) as job, style_context(job.settings):
        sweep = read_dataset(smk.input.sweep, recipe=job.recipe_of("sweep"))
        save_figure(plot_sweep(sweep), [smk.output.sweep, smk.output.sweep_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
