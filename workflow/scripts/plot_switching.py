"""Rule plot_switching: Fig. 6 of Zhou 2025a, with both baselines."""

from twophase.jobs import logged_job
from twophase.plotting import save_figure, style_context, switching
from twophase.storage import read_dataset


def main(smk):
    """Read the grid, draw it."""
    with logged_job(smk) as job, style_context(job.settings["style"]):
        data = read_dataset(smk.input.switching, recipe=job.recipe_of("switching"))
        figure = switching.plot_switching(data, **job.settings["published"])
        save_figure(figure, [smk.output.switching, smk.output.switching_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
