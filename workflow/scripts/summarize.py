"""Rule summarize: what the papers claim, what was measured, and whether it holds, on one page and as a table."""

from pathlib import Path

from twophase.claims.page import to_html, to_tsv
from twophase.claims.parts import Part, diagram_claims, study_claims
from twophase.errors import ArtifactError
from twophase.files import whole_file
from twophase.jobs import logged_job
from twophase.provenance import digest
from twophase.storage import read_dataset


def read_figure(path: Path, mark: str) -> bytes:
    """A PNG file, which must carry the digest of its recipe."""
    content = path.read_bytes()
    if mark.encode() not in content:
        raise ArtifactError(f"{path} was made by other settings or other code; delete it and run again")
    return content


def read_part(section: dict, job) -> Part:
    """Claims and figures of one study or phase diagram."""
    folder = Path(section["folder"])
    data = {
        file: read_dataset(folder / f"{file}.nc", recipe=job.recipe_of(f"{folder}/{file}.nc"))
        for file in section["files"]
    }
    claims_of = diagram_claims if section["is_diagram"] else study_claims
    settings = section["settings"]
    if "published" in settings:  # JSON has no integers as keys
        settings = settings | {"published": {int(step): value for step, value in settings["published"].items()}}
    figures = {name: read_figure(folder / f"figures/{name}.png", mark) for name, mark in section["figures"].items()}
    return Part(section["name"], section["title"], claims_of(section["name"], data, **settings), figures)


def main(smk):
    """Read what each study has, decide, write."""
    with logged_job(smk) as job:
        parts = [read_part(section, job) for section in job.settings["sections"]]
        mark = digest(job.recipe_text)
        job.log.info("%d claims", sum(len(part.claims) for part in parts))
        with whole_file(smk.output.html) as temporary:
            temporary.write_text(to_html(parts, mark=mark))
        with whole_file(smk.output.table) as temporary:
            temporary.write_text(to_tsv(parts, mark=mark))


if "snakemake" in globals():
    main(snakemake)
