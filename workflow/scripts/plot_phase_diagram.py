"""Rule plot_phase_diagram: the map, its fits, orientations and learned functions."""

from twophase.jobs import logged_job
from twophase.plotting import (
    plot_learned_functions,
    plot_orientations,
    plot_phase_diagram,
    plot_relative_distance,
    save_figure,
    style_context,
)
from twophase.storage import read_dataset


def main(smk):
    """Read what was measured, draw it."""
    with logged_job(smk) as job, style_context(job.settings["style"]):
        names = ("regime", "distances", "orientations")
        regime, distances, orientations = (read_dataset(smk.input[name], recipe=job.recipe_of(name)) for name in names)
        points = [(point["gamma"], point["gamma_prime"]) for point in job.settings["points"]]
        figures = {
            "phase_diagram": plot_phase_diagram(regime, distances),
            "relative_distance": plot_relative_distance(regime, distances, points),
            "orientations": plot_orientations(orientations),
            "learned_functions": plot_learned_functions(orientations),
        }
        for name, figure in figures.items():
            save_figure(figure, [smk.output[name], smk.output[f"{name}_svg"]], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
