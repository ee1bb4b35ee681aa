"""Rule fit_regime: S_w and the regime at each point of a phase diagram."""

from twophase.jobs import logged_job
from twophase.phase_diagram.regimes import fit_regimes
from twophase.storage import read_dataset, write_dataset


def main(smk):
    """Read the relative distances, fit, write."""
    with logged_job(smk) as job:
        distances = read_dataset(smk.input.distances, recipe=job.recipe_of("distances"))
        regimes = fit_regimes(distances, **job.settings)
        title = f"Regimes of phase diagram {smk.wildcards.diagram}"
        write_dataset(smk.output.regime, regimes, title=title, recipe=job.recipe_text)


if "snakemake" in globals():
    main(snakemake)
