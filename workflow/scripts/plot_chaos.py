"""Rule plot_chaos: Fig. 3 of Zhou 2025a, the barrier against t0, and the growth of the perturbation."""

from twophase.jobs import logged_job
from twophase.plotting import chaos, save_figure, style_context
from twophase.storage import read_dataset


def main(smk):
    """Read the grid, draw its figures for one kind of perturbation."""
    with logged_job(smk) as job, style_context(job.settings):
        data, kind = read_dataset(smk.input.chaos, recipe=job.recipe_of("chaos")), smk.wildcards.kind
        save_figure(chaos.plot_chaos(data, kind=kind), [smk.output.chaos, smk.output.chaos_svg])
        save_figure(chaos.plot_barrier_against_t0(data, kind=kind), [smk.output.barrier, smk.output.barrier_svg])
        save_figure(chaos.plot_growth(data, kind=kind), [smk.output.growth, smk.output.growth_svg])


if "snakemake" in globals():
    main(snakemake)
