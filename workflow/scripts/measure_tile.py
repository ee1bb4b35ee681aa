"""Rule measure_tile: the networks of one tile of a phase diagram, those that the file doesn't have yet."""

import json

from twophase.jobs import logged_job
from twophase.phase_diagram.grid import networks_of
from twophase.phase_diagram.relative_distance import rows_of
from twophase.phase_diagram.tile_files import kept_results, measures_of
from twophase.storage import read_dataset, write_dataset
from twophase.two_layer import STATUS, Accuracy, TwoLayer, environment, integrate


def main(smk):
    """Keep what is there, integrate the rest, write all."""
    with logged_job(smk) as job:
        data = read_dataset(smk.input.data, recipe=job.recipe_of("data"))
        wanted = networks_of(**json.loads(smk.params.networks))
        kept = kept_results(smk.output.tile, job.recipe)
        missing = [key for key in wanted if key not in kept]
        job.log.info("%d networks, %d of them kept", len(wanted), len(wanted) - len(missing))
        trained = integrate(
            [TwoLayer(*key) for key in missing],
            data.inputs.values,
            data.targets.values,
            accuracy=Accuracy(**job.settings),
            threads=smk.threads,
            memory_budget=smk.resources.flow_memory_mb * 10**6,
            progress=job.progress(sum(width for _, _, width, _ in missing), "neurons"),
        )
        for status in STATUS[1:]:
            if count := sum(result.status == status for result in trained):
                job.log.warning("%d networks ended %s", count, status)
        results = kept | dict(zip(missing, map(measures_of, trained), strict=True))
        rows = rows_of({key: results[key] for key in wanted})
        title = f"Relative distances of phase diagram {smk.wildcards.diagram}, tile {smk.wildcards.tile}"
        write_dataset(
            smk.output.tile,
            rows.assign_attrs(networks=smk.params.networks),
            title=title,
            recipe=job.recipe_text,
            place=job.place,
            environment=environment(),
        )


if "snakemake" in globals():
    main(snakemake)
