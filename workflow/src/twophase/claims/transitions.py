"""Claims about transition steps: where a curve stops changing, and whether two curves do so at the same step.

``transition.nc`` holds the estimates with intervals; here they become claims. A transition that was found holds. One
that wasn't is undecided, with the estimator's reason: to find none is not to show that there is none.
"""

import math

import xarray as xr

from twophase.claims.claim import (
    FAILS,
    HOLDS,
    OURS,
    UNDECIDED,
    Claim,
    Finding,
    Mean,
    make_claim,
    not_measured,
)

KERNEL = "kernel_velocity"
FIGURE = "transition"
STATEMENTS = {  # for each measure: paper and statement
    "test_loss_barrier": (
        "Zhou 2025a, Fig. 3",
        "From some step t0 on, a perturbation leads over no loss barrier any more.",
    ),
    "disagreement_rate": ("Zhou 2025a, Fig. 3", "The disagreement rate falls with t0 up to some step."),
    "growth_exponent": (OURS, "The growth rate of a perturbation changes with t0 up to some step."),
    KERNEL: ("Zhou 2025b", "The kernel moves fast up to some step, slowly from there on."),
}
STEP = ("transition_step", "transition_lower", "transition_upper")
DIFFERENCE = ("difference", "difference_lower", "difference_upper")
PAIRS = {  # verdict of a pair to verdict of the claim that both transitions are the same
    "together": HOLDS,
    "apart": FAILS,
}


def transition_claims(study: str, transition: xr.Dataset | None, *, of_kernel: bool) -> list[Claim]:
    """One claim a curve: it has a transition.

    Args:
        study: Name of the study.
        transition: Content of ``transition.nc``; None if the study has none.
        of_kernel: Whether the kernel's curve is wanted, or those of the chaos side.

    Returns:
        The claims; one that says "not measured" without a curve.
    """
    curves = [] if transition is None else [transition.isel(curve=place) for place in range(transition.sizes["curve"])]
    wanted = [curve for curve in curves if (str(curve["measure"].item()) == KERNEL) == of_kernel]
    if wanted:
        return [_transition_claim(study, curve, transition.attrs.get("confidence", math.nan)) for curve in wanted]
    paper, statement = STATEMENTS[KERNEL if of_kernel else "test_loss_barrier"]
    finding = not_measured("the study has no transition.nc with such a curve")
    return [make_claim(study, "Transition step", paper, statement, FIGURE, finding)]


def _transition_claim(study: str, curve: xr.Dataset, confidence: float) -> Claim:
    label, measure = str(curve["curve"].item()), str(curve["measure"].item())
    paper, statement = STATEMENTS[measure]
    step = _mean(curve, STEP, "seeds_used", float(confidence))
    if bool(curve["found"].item()):
        finding = step.finding(HOLDS, "found: it passed every test for a transition", unit="steps")
    else:
        finding = Finding(f"none found (n = {step.seeds})", UNDECIDED, str(curve["reason"].item()), seeds=step.seeds)
    return make_claim(study, f"Transition step of {_readable(label)}", paper, statement, FIGURE, finding)


def pair_claims(study: str, transition: xr.Dataset | None) -> list[Claim]:
    """One claim for each curve of the chaos side: it has its transition at the same step as the kernel's.

    The verdict is the pair's: "together" (the interval of the difference, paired by seed, lies within the tolerance)
    holds, "apart" (it excludes 0) doesn't.

    Args:
        study: Name of the study.
        transition: Content of ``transition.nc``; None if the study has none.
    """
    statement = "Chaos effect and cone effect end at the same step."
    if transition is None or not transition.sizes.get("pair"):
        finding = not_measured("the study has no transition.nc with pairs of curves")
        return [make_claim(study, "Chaos and cone end together", "Zhou 2025a", statement, FIGURE, finding)]
    claims = []
    for place in range(transition.sizes["pair"]):
        pair = transition.isel(pair=place)
        first, second = (str(pair[name].item()) for name in ("first_curve", "second_curve"))
        if KERNEL not in (first, second):
            continue
        difference = _mean(pair, DIFFERENCE, "pair_seeds", float(transition.attrs.get("confidence", math.nan)))
        verdict = PAIRS.get(str(pair["verdict"].item()), UNDECIDED)
        finding = difference.finding(
            verdict, str(pair["pair_reason"].item()), unit="steps", more=", first minus second"
        )
        name = f"{_readable(first)} and {_readable(second)}: same transition"
        claims.append(make_claim(study, name[0].upper() + name[1:], "Zhou 2025a", statement, FIGURE, finding))
    return claims


def _mean(estimates: xr.Dataset, names: tuple[str, str, str], seeds: str, confidence: float) -> Mean:
    """An estimate as the file holds it: value, lower and upper end."""
    value, lower, upper = (float(estimates[name].item()) for name in names)
    return Mean(value, lower, upper, int(estimates[seeds].item()), confidence)


def _readable(label: str) -> str:
    return label.replace("_", " ")
