"""Rule plot_history: the training curves of the parents."""

from twophase.jobs import logged_job
from twophase.plotting import history, save_figure, style_context
from twophase.storage import read_dataset


def main(smk):
    """Read the history, draw it."""
    with logged_job(smk) as job, style_context(job.settings):
        data = read_dataset(smk.input.history, recipe=job.recipe_of("history"))
        save_figure(history.plot_history(data), [smk.output.history, smk.output.history_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
