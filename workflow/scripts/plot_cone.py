"""Rule plot_cone: Figs. 4 and 5 of Zhou 2025a, and the kernel's scale."""

from twophase.jobs import logged_job
from twophase.plotting import cone, save_figure, style_context
from twophase.storage import read_dataset

FIGURES = {
    "distance_matrix": cone.plot_distance_matrix,
    "reference_distance": cone.plot_reference_distance,
    "interval_distance": cone.plot_interval_distance,
    "projection": cone.plot_projection,
    "kernel_scale": cone.plot_kernel_scale,
}


def main(smk):
    """Read the cone, draw its figures."""
    with logged_job(smk) as job, style_context(job.settings):
        data = read_dataset(smk.input.cone, recipe=job.recipe_of("cone"))
        for name, plot in FIGURES.items():
            save_figure(plot(data), [smk.output[name], smk.output[f"{name}_svg"]], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
