"""Rule plot_transition: the transitions over their curves, and the exponents of each kind of perturbation."""

from twophase.jobs import logged_job
from twophase.plotting import save_figure, style_context, transition
from twophase.storage import read_dataset


def main(smk):
    """Read what was measured and estimated, draw."""
    with logged_job(smk) as job, style_context(job.settings):
        data = {name: read_dataset(smk.input[name], recipe=job.recipe_of(name)) for name in job.recipe["inputs"]}
        boundary = data.pop("transition")
        figure = transition.plot_transitions(boundary, **data)
        save_figure(figure, [smk.output.transition, smk.output.transition_svg], recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
