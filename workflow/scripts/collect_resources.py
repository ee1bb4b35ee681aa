"""Rule collect_resources: time and memory of all jobs, in one table with totals for each stage."""

from pathlib import Path

from twophase.files import whole_file
from twophase.jobs import logged_job
from twophase.provenance import digest
from twophase.resource_table import read_jobs, resource_table, to_html


def main(smk):
    """Read the benchmarks, write the table."""
    with logged_job(smk) as job:
        table = resource_table(read_jobs(map(Path, job.settings["folders"])))
        with whole_file(smk.output.html) as temporary:
            temporary.write_text(to_html(table, title="Time and memory of the jobs", mark=digest(job.recipe_text)))
        with whole_file(smk.output.table) as temporary:
            temporary.write_text(f"# {digest(job.recipe_text)}\n" + table.to_csv(sep="\t"))


if "snakemake" in globals():
    main(snakemake)
