"""The summary of all claims: a page that needs nothing else, and a table for programs.

The page has no scripts and no date, and holds its figures, so that the same claims give the same bytes. Each row links
to its figure by a fragment, which works in a file as well as within Snakemake's report.
"""

import base64
import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, fields
from html import escape

from twophase.claims.claim import FAILS, HOLDS, NOT_MEASURED, UNDECIDED, VERDICTS, Claim
from twophase.claims.parts import Part

TITLE = "What holds: claims of the papers, and what was measured"
SYMBOLS = {HOLDS: "\u2713", FAILS: "\u2717", UNDECIDED: "?", NOT_MEASURED: "\u2013"}
MEANINGS = {
    HOLDS: "the interval lies wholly on the claim's side of its threshold",
    FAILS: "it lies wholly on the other side",
    UNDECIDED: "it reaches across, or there is none: it takes at least two seeds. More seeds may decide it",
    NOT_MEASURED: "the study lacks the steps, or the section, that the claim is about",
}
LEGEND = """
Every verdict is computed from the numbers in the netCDF files. Means are over seeds, the independent runs (n), with
Student's t interval at the level given; what can be paired by seed is. Thresholds are stated beside each reason,
and are the same for every study. A transition that was not found counts as undecided: to find none is not to show
that there is none. Controls, which must be exact, need no interval. Neither these tables nor the levels of their
intervals correct for the number of claims: of many that are false, some hold by chance.
"""
STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #000; background: #fff; }
table { border-collapse: collapse; width: 100%; }
td, th { padding: .35em .6em; text-align: left; vertical-align: top; border-bottom: 1px solid #bbb; }
th { border-bottom: 2px solid #000; }
td.verdict { white-space: nowrap; font-weight: bold; }
tr.undecided td.verdict, tr.not-measured td.verdict { font-weight: normal; }
figure { margin: 1.5em 0; break-inside: avoid; }
figure img { max-width: 100%; }
tr { break-inside: avoid; }
@page { size: landscape; }
@media print { body { font-size: 11px; margin: 0; max-width: none; } a { color: #000; } }
.mark { color: #555; font-size: 85%; overflow-wrap: anywhere; }
"""


def to_html(parts: list[Part], *, mark: str) -> str:
    """The page.

    Args:
        parts: Studies and phase diagrams, in the order of the page.
        mark: Digest of the recipe, for a comment at the head and for the foot.

    Returns:
        HTML, whole.
    """
    sections = "\n".join(_section(part, f"part{number}") for number, part in enumerate(parts))
    overview = "\n".join(
        f'<li><a href="#part{number}">{escape(part.title)}</a>: {counts_text(part.claims)}</li>'
        for number, part in enumerate(parts)
    )
    return (
        f"<!doctype html><!-- {escape(mark)} -->\n"
        f'<html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title><style>{STYLE}</style></head><body>\n'
        f"<h1>{TITLE}</h1>\n<ul>\n{overview}\n</ul>\n{_legend()}\n{sections}\n"
        f'<p class="mark">{escape(mark)}</p>\n</body></html>\n'
    )


def counts_text(claims: Iterable[Claim]) -> str:
    """How many claims have each verdict: ``3 claims: 2 hold, 1 undecided``."""
    verdicts = [claim.verdict for claim in claims]
    if not verdicts:
        return "no claims: nothing that they are made of is measured"
    plural = {HOLDS: "hold", FAILS: "don't hold"}
    counted = [(verdicts.count(verdict), verdict) for verdict in VERDICTS if verdict in verdicts]
    words = ", ".join(
        f"{number} {verdict if number == 1 else plural.get(verdict, verdict)}" for number, verdict in counted
    )
    return f"{len(verdicts)} claim{'s' if len(verdicts) > 1 else ''}: {words}"


def _legend() -> str:
    rows = "\n".join(f"<li><strong>{_verdict(verdict)}</strong>: {MEANINGS[verdict]}</li>" for verdict in VERDICTS)
    return f"<h2>How verdicts are decided</h2>\n<p>{LEGEND.strip()}</p>\n<ul>\n{rows}\n</ul>"


def _verdict(verdict: str) -> str:
    return f"{SYMBOLS[verdict]} {escape(verdict)}"


def _section(part: Part, anchor: str) -> str:
    shown = [stem for stem in part.figures if any(claim.figure == stem for claim in part.claims)]
    anchors = {stem: f"{anchor}-figure{number}" for number, stem in enumerate(shown)}
    heads = ("Claim", "Paper", "It says", "Measured here", "Verdict", "Reason", "Figure")
    rows = "\n".join(_row(claim, anchors) for claim in part.claims)
    head = "".join(f'<th scope="col">{text}</th>' for text in heads)
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table>" if part.claims else ""
    figures = "\n".join(_figure(stem, part.figures[stem], anchors[stem], anchor) for stem in shown)
    counts = counts_text(part.claims)
    return f'<h2 id="{anchor}">{escape(part.title)}</h2>\n<p><strong>{counts}</strong></p>\n{table}\n{figures}'


def _row(claim: Claim, anchors: dict[str, str]) -> str:
    texts = [claim.name, claim.paper, claim.statement, claim.measured]
    cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
    label = escape(claim.figure)
    link = f'<a href="#{anchors[claim.figure]}">{label}</a>' if claim.figure in anchors else ""
    return (
        f'<tr class="{claim.verdict.replace(" ", "-").replace(chr(39), "")}">{cells}<td class="verdict">'
        f"{_verdict(claim.verdict)}</td><td>{escape(claim.reason)}</td><td>{link}</td></tr>"
    )


def _figure(stem: str, image: bytes, anchor: str, back: str) -> str:
    source = f"data:image/png;base64,{base64.b64encode(image).decode()}"
    name = escape(stem)
    return (
        f'<figure id="{anchor}"><img src="{source}" alt="Figure {name}">'
        f'<figcaption>{name} (<a href="#{back}">back to the table</a>)</figcaption></figure>'
    )


def to_tsv(parts: list[Part], *, mark: str) -> str:
    """All claims as a table, columns as the fields of :class:`Claim`, after a line with the digest of the recipe."""
    text = io.StringIO()
    text.write(f"# {mark}\n")
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([field.name for field in fields(Claim)])
    writer.writerows(astuple(claim) for part in parts for claim in part.claims)
    return text.getvalue()
