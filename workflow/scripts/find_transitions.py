"""Rule find_transitions: growth of the perturbations, and where barrier, disagreement, growth and kernel settle."""

from functools import partial

import numpy as np

from twophase.jobs import logged_job
from twophase.phase_boundary import phase_boundary
from twophase.schedule import learning_rate_at
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read what was measured, estimate, write."""
    with logged_job(smk) as job:
        settings = job.settings
        measured = {
            name: read_dataset(smk.input[name], recipe=job.recipe_of(name)) if name in job.recipe["inputs"] else None
            for name in ("chaos", "cone")
        }
        boundary = phase_boundary(
            **measured,
            learning_rate_at=partial(learning_rate_at, base=settings["learning_rate"], schedule=settings["schedule"]),
            dtype=np.dtype(settings["dtype"]),
            test_examples=settings["test_examples"],
            confidence=settings["confidence"],
        )
        for curve in boundary["curve"].values:
            job.log.info("%s: %s", curve, in_words(boundary.sel(curve=curve)))
        title = f"Transitions of study {smk.wildcards.study}: growth of perturbations, and where the phases meet"
        write_dataset(smk.output.transition, boundary, title=title, recipe=job.recipe_text)


def in_words(found):
    """The transition of one curve."""
    if not found["found"]:
        return f"none: {found['reason'].item()}"
    step, lower, upper = (float(found[f"transition_{end}"]) for end in ("step", "lower", "upper"))
    return f"step {step:.4g} [{lower:.4g}, {upper:.4g}]"


if "snakemake" in globals():
    main(snakemake)
