"""All claims of a study or of a phase diagram, from the netCDF files that it has."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import xarray as xr

from twophase.claims.chaos import chaos_claims
from twophase.claims.claim import Claim
from twophase.claims.cone import cone_claims
from twophase.claims.phase_diagram import phase_diagram_claims
from twophase.claims.pointwise import pointwise_claims
from twophase.claims.switching import switching_claims

Data = Mapping[str, xr.Dataset]


@dataclass(frozen=True)
class Part:
    """One section of the summary.

    Attributes:
        name: Name of the study or phase diagram.
        title: Heading.
        claims: Its claims, in the order of the table.
        figures: PNG files by their stem.
    """

    name: str
    title: str
    claims: list[Claim]
    figures: Mapping[str, bytes]


def study_claims(
    study: str, data: Data, *, confidence: float, late_from: int, published: Mapping[int, float]
) -> list[Claim]:
    """All claims of a study, group by group; none of a group whose file the study doesn't have.

    Args:
        study: Name of the study.
        data: Contents of its netCDF files by their stem.
        confidence: Level of the intervals over seeds.
        late_from: Step from which on kernels count as late.
        published: A paper's test accuracy at T by switch step.
    """
    groups: dict[str, Callable[[], list[Claim]]] = {
        "chaos": lambda: chaos_claims(study, data, confidence),
        "cone": lambda: cone_claims(study, data, confidence, late_from),
        "switching": lambda: switching_claims(study, data, confidence, published),
        "pointwise": lambda: pointwise_claims(study, data, confidence, late_from),
    }
    return [claim for file, claims_of in groups.items() if file in data for claim in claims_of()]


def diagram_claims(diagram: str, data: Data, *, seeds: int) -> list[Claim]:
    """All claims of a phase diagram.

    Args:
        diagram: Name of the phase diagram.
        data: Contents of its netCDF files by their stem.
        seeds: Number of seeds.
    """
    return phase_diagram_claims(diagram, data, seeds) if "regime" in data else []
