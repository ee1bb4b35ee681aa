"""Rule plot_pointwise: gradient signal-to-noise ratio, gradient norm and sharpness along the parents."""

from twophase.jobs import logged_job
from twophase.plotting import pointwise, save_figure, style_context
from twophase.storage import read_dataset


def main(smk):
    """Read the measures, draw them."""
    with logged_job(smk) as job, style_context(job.settings):
        data = read_dataset(smk.input.pointwise, recipe=job.recipe_of("pointwise"))
        figure = pointwise.plot_pointwise(data)
        save_figure(figure, [smk.output.pointwise, smk.output.pointwise_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
