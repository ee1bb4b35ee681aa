"""Before anything is planned: records of results that Snakemake lacks, restored from the results."""

from snakemake.iocontainers import Wildcards
from snakemake.persistence.file import FilePersistence

from twophase.provenance import place_of
from twophase.records import Expected, restore_records


def expected_of(path):
    """What a result must carry by the config as it is now; None for a file that no rule makes, or of no study."""
    for maker in workflow.rules:
        if not any(output.match(path) for output in maker.output):
            continue
        wildcards = Wildcards(fromdict=maker.get_wildcards(path))
        parameters = tuple(value(wildcards) if callable(value) else value for value in maker.params)
        return Expected(
            maker.name,
            parameters,
            place_of(wildcards),
            inputs=lambda: [str(file) for file in maker.expand_input(wildcards)[0]],
        )
    return None


# Only one Snakemake at a time looks after the records, and never one that runs a single job of another one's.
if workflow.is_main_process and RUNNING and Path("results").is_dir():
    restore_records(
        FilePersistence(nolock=True),
        Path("results"),
        expected_of,
        progress=say,
    )
