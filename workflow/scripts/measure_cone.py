"""Rule measure_cone: distances and geometry of the kernels along the parents."""

from twophase.cone import cone_of_seed, cone_of_seeds
from twophase.jobs import logged_job
from twophase.kernel_files import read_kernels
from twophase.storage import write_dataset


def main(smk):
    """Read each seed's kernels, measure, write the cone."""
    with logged_job(smk) as job:
        steps, cones = job.settings["steps"], {}
        for number, seed in enumerate(job.settings["seeds"]):
            paths = smk.input.kernels[number * len(steps) : (number + 1) * len(steps)]
            kernels, labels, classes = read_kernels(paths, seed, steps, recipe=job.recipe_of("kernel"))
            cones[seed] = cone_of_seed(kernels, labels, classes=classes, steps=steps, **job.settings["measures"])
            job.log.info("seed %d: %d kernels", seed, len(kernels))
        title = f"Cone effect of study {smk.wildcards.study}: the eNTK along the parents"
        write_dataset(smk.output.cone, cone_of_seeds(cones), title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
