"""Rule plot_cone_opening: radius, confinement and opening angles of the cone."""

from twophase.jobs import logged_job
from twophase.plotting import plot_cone_opening, save_figure, style_context
from twophase.storage import read_dataset


def main(smk):
    """Read the opening, draw it."""
    with logged_job(smk) as job, style_context(job.settings):
        opening = read_dataset(smk.input.opening, recipe=job.recipe_of("opening"))
        figure = plot_cone_opening(opening)
        save_figure(figure, [smk.output.cone_opening, smk.output.cone_opening_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
