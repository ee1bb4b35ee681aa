"""Rule record_orientations: every neuron of a network at chosen points of a phase diagram, at start and end."""

from threadpoolctl import threadpool_limits

from twophase.jobs import logged_job
from twophase.phase_diagram.details import details_of_points
from twophase.storage import read_dataset, write_dataset
from twophase.two_layer import Accuracy, environment


def main(smk):
    """Train the networks again, write their neurons."""
    with logged_job(smk) as job, threadpool_limits(smk.threads, user_api="blas"):
        data = read_dataset(smk.input.data, recipe=job.recipe_of("data"))
        settings = dict(job.settings)
        accuracy = Accuracy(**settings.pop("accuracy"))
        points = [(point["gamma"], point["gamma_prime"]) for point in settings.pop("points")]
        details = details_of_points(points, data.inputs.values, data.targets.values, accuracy=accuracy, **settings)
        title = f"Orientations of neurons in phase diagram {smk.wildcards.diagram}"
        write_dataset(smk.output.orientations, details, title=title, recipe=job.recipe_text, environment=environment())


if "snakemake" in globals():
    main(snakemake)
