"""Rule plot_exponents: finite-time Lyapunov exponents of one kind of perturbation."""

from twophase.jobs import logged_job
from twophase.plotting import save_figure, style_context, transition
from twophase.storage import read_dataset


def main(smk):
    """Read the growth, draw."""
    with logged_job(smk) as job, style_context(job.settings):
        boundary = read_dataset(smk.input.transition, recipe=job.recipe_of("transition"))
        figure = transition.plot_exponents(boundary, smk.wildcards.kind)
        save_figure(figure, [smk.output.exponents, smk.output.exponents_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
