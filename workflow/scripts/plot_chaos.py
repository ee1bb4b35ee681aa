"""Rule plot_chaos: Fig. 3 of Zhou 2025a, the barrier against t0, and the growth of the perturbation."""

from twophase.jobs import logged_job
from twophase.plotting import chaos, save_figure, style_context
from twophase.storage import read_dataset

FIGURES = {"chaos": chaos.plot_chaos, "barrier": chaos.plot_barrier_against_t0, "growth": chaos.plot_growth}


def main(smk):
    """Read the grid, draw its figures for one kind of perturbation."""
    with logged_job(smk) as job, style_context(job.settings):
        data, kind = read_dataset(smk.input.chaos, recipe=job.recipe_of("chaos")), smk.wildcards.kind
        for name, plot in FIGURES.items():
            save_figure(plot(data, kind=kind), [smk.output[name], smk.output[f"{name}_svg"]], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
