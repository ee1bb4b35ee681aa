"""Claims from synthetic data sets whose answer is known, and the page that shows them."""

import csv
import importlib.util
import math
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from twophase.claims.chaos import chaos_claims, control, early_barrier, strict_chaos
from twophase.claims.claim import (
    FAILS,
    HOLDS,
    NOT_MEASURED,
    OURS,
    UNDECIDED,
    VERDICTS,
    Finding,
    decide_above,
    decide_below,
    decide_near,
    make_claim,
    mean_over_seeds,
    number_text,
)
from twophase.claims.cone import cone_claims
from twophase.claims.page import counts_text, to_html, to_tsv
from twophase.claims.parts import Part, diagram_claims, study_claims
from twophase.claims.phase_diagram import share_that_agrees
from twophase.claims.pointwise import pointwise_claims
from twophase.claims.switching import switching_claims
from twophase.claims.transitions import pair_claims, transition_claims
from twophase.phase_diagram.theory import CONDENSED, CRITICAL, LINEAR
from twophase.provenance import canonical, digest, make_recipe
from twophase.storage import write_dataset

SPREAD = np.array([-0.01, 0.0, 0.01, 0.005, -0.005])  # what differs between seeds


def seeds_of(value, seeds):
    return value + SPREAD[:seeds]


def chaos_data(*, seeds=3, early=1.0, late=0.0, early_rate=0.3, late_rate=0.1, control=0.0):
    """Two t0, one t1 after both and one between; one draw; the control and one size."""
    axes = {"seed": range(seeds), "kind": ["gaussian"], "relative_norm": [0.0, 0.001], "draw": [0], "t0": [0, 100]}
    axes |= {"t1": [50, 200]}
    shape = tuple(map(len, axes.values()))
    grid = {name: np.zeros(shape) for name in ("test_loss_barrier", "disagreement_rate", "parameter_distance")}
    for name, values in (("test_loss_barrier", (early, late)), ("disagreement_rate", (early_rate, late_rate))):
        for place, value in enumerate(values):
            noisy = seeds_of(value, seeds) if value > 1e-3 else value * (1 + SPREAD[:seeds])
            grid[name][:, 0, 1, 0, place, :] = (noisy + place * 1e-6 * SPREAD[:seeds])[:, None]
    for values in grid.values():
        values[..., 1, 0] = np.nan  # t1 = 50 is before t0 = 100
    grid["parameter_distance"][0, 0, 0, 0, 0, 1] = control
    variables = {name: (tuple(axes), values) for name, values in grid.items()}
    variables["test_interpolation_loss"] = ((*axes, "interpolation"), np.ones((*shape, 3)))
    variables["growth_distance"] = ((*list(axes)[:5], "steps_after"), np.zeros((*shape[:5], 4)))
    return xr.Dataset(variables, coords=axes)


def cone_data(*, seeds=3, early=0.1, late=0.01, turn=0.5):
    steps = [0, 10, 20, 30, 40]
    velocity = np.full((seeds, 5), np.nan)
    velocity[:, 0], velocity[:, 1:4] = early * np.exp(seeds_of(0, seeds)), late
    distances = np.full((seeds, 1, 5), np.nan)
    distances[:, 0, :4] = 10 * velocity[:, :4]
    matrix = np.zeros((seeds, 5, 5))
    matrix[:, 0, -1] = matrix[:, -1, 0] = turn * (1 + seeds_of(0, seeds))  # 0.5 is 60 degrees
    return xr.Dataset(
        {
            "kernel_velocity": (("seed", "step"), velocity),
            "interval_distance": (("seed", "interval", "step"), distances),
            "kernel_distance": (("seed", "step", "step_other"), matrix),
        },
        coords={"seed": range(seeds), "step": steps, "step_other": steps, "interval": [10]},
    )


def opening_data(verdict="confined", seeds=3):
    return xr.Dataset(
        {
            "cone_radius": ("seed", seeds_of(20.0, seeds)),
            "cone_radius_mean": 20.0,
            "cone_radius_lower": 19.0,
            "cone_radius_upper": 21.0,
            "drift_verdict": verdict,
            "drift_reason": "because",
        }
    )


def transition_data(*, found=True, verdict="together", chaos="chaotic", seeds=3):
    curves = ["test_loss_barrier gaussian 0.001", "kernel_velocity"]
    nan = math.nan
    numbers = (120.0, 100.0, 140.0) if found else (nan, nan, nan)
    return xr.Dataset(
        {
            "measure": ("curve", [label.split()[0] for label in curves]),
            "found": ("curve", np.array([found, found], dtype=np.int8)),
            "reason": ("curve", ["" if found else "no change beyond the spread between seeds"] * 2),
            **{
                f"transition_{end}": ("curve", [number] * 2)
                for end, number in zip(("step", "lower", "upper"), numbers, strict=True)
            },
            "seeds_used": ("curve", [seeds] * 2),
            "first_curve": ("pair", curves[:1]),
            "second_curve": ("pair", curves[1:]),
            "verdict": ("pair", [verdict]),
            "pair_reason": ("pair", ["because"]),
            "difference": ("pair", [5.0]),
            "difference_lower": ("pair", [-5.0]),
            "difference_upper": ("pair", [15.0]),
            "pair_seeds": ("pair", [seeds]),
            "chaos_verdict": (("kind", "t0"), [[chaos, "undecided"]]),
            "chaos_reason": (("kind", "t0"), [["because", "no"]]),
            "chaos_exponent": (("kind", "t0"), [[0.1, nan]]),
        },
        coords={"curve": curves, "pair": [" | ".join(curves)], "kind": ["gaussian"], "t0": [0, 100]},
        attrs={"confidence": 0.9},
    )


def switching_data(*, seeds=3, accuracies=(0.5, 0.6, 0.7, 0.8), nonlinear=0.9, diverged=()):
    steps = [0, 10, 20, 30][: len(accuracies)]
    grown = np.array(accuracies) * (1 + SPREAD[:seeds, None])  # seeds differ in their differences too
    values = grown[:, None, :].copy()  # seed, rate, switch step
    flags = np.zeros(values.shape, dtype=int)
    for seed, place in diverged:
        flags[seed, 0, place], values[seed, 0, place] = 1, 0.0
    axes = ("seed", "learning_rate", "switch_step")
    noisy = nonlinear + SPREAD[:seeds] * 0.5
    return xr.Dataset(
        {
            "test_accuracy": (axes, values),
            "diverged": (axes, flags),
            "nonlinear_test_accuracy": (("seed", "step"), np.stack([np.zeros(seeds), noisy], axis=1)),
        },
        coords={"seed": range(seeds), "learning_rate": [0.1], "switch_step": steps, "step": [0, 40]},
    )


def regime_data(linear=-0.5, condensed=0.5, critical=0.0, half=0.02):
    """Twelve points of each regime."""
    slopes = np.repeat([[linear], [condensed], [critical]], 12, axis=1)
    theory = np.repeat([[LINEAR], [CONDENSED], [CRITICAL]], 12, axis=1)
    grid = ("gamma", "gamma_prime")
    return xr.Dataset(
        {
            "slope_low": (grid, slopes - half),
            "slope_high": (grid, slopes + half),
            "theoretical_regime": (grid, theory),
            "confidence": 0.95,
            "critical_slope": 0.1,
        }
    )


def pointwise_data(*, seeds=3, late_ratio=0.5, sharpness=1.2):
    ratio = np.stack([np.full(seeds, 3.0), seeds_of(late_ratio, seeds)], axis=1)
    return xr.Dataset(
        {
            "gradient_signal_to_noise": (("seed", "step"), ratio),
            "sharpness": (("seed", "step"), np.stack([np.zeros(seeds), seeds_of(sharpness, seeds)], axis=1)),
            "stability_threshold": ("step", np.ones(2)),
        },
        coords={"seed": range(seeds), "step": [0, 40]},
    )


def verdicts(claims):
    return {claim.name.split(" (")[0]: claim.verdict for claim in claims}


def claim_of(claims, start):
    return next(claim for claim in claims if claim.name.startswith(start))


# Decisions


def test_an_interval_on_one_side_decides_one_across_doesnt():
    mean = mean_over_seeds([0.9, 1.0, 1.1], 0.9)
    assert mean.value == pytest.approx(1.0)
    assert mean.upper - mean.value == pytest.approx(2.919986 * 0.1 / math.sqrt(3), rel=1e-6)  # t table
    assert [decide_above(mean, t)[0] for t in (0.5, 1.0, 2.0)] == [HOLDS, UNDECIDED, FAILS]
    assert [decide_below(mean, t)[0] for t in (0.5, 1.0, 2.0)] == [FAILS, UNDECIDED, HOLDS]
    assert [decide_near(mean, 1.0, m)[0] for m in (0.5, 0.1)] == [HOLDS, UNDECIDED]
    assert decide_near(mean, 2.0, 0.5)[0] == FAILS


@pytest.mark.parametrize("decide", [decide_above, decide_below, lambda mean: decide_near(mean, 0.0, 1.0)])
def test_one_seed_is_undecided_and_none_not_measured(decide):
    assert decide(mean_over_seeds([1.0], 0.9))[0] == UNDECIDED
    assert "two" in decide(mean_over_seeds([1.0], 0.9))[1]
    assert decide(mean_over_seeds([math.nan], 0.9))[0] == NOT_MEASURED


@pytest.mark.parametrize("decide", [decide_above, decide_below, lambda mean: decide_near(mean, 0.0, 1.0)])
def test_equal_values_have_no_spread_to_judge_by(decide):
    assert decide(mean_over_seeds([0.1, 0.1], 0.9))[0] == UNDECIDED


def test_numbers_and_means_are_readable():
    assert [number_text(value) for value in (2000.4, 0.012345, -0.0, 123.4)] == ["2000", "0.0123", "0", "123"]
    assert number_text(-1.5, "nat") == "\u22121.5 nat"
    assert mean_over_seeds([1.0], 0.9).text("nat") == "1 nat (no interval, n = 1)"
    assert mean_over_seeds([1.0, 1.0], 0.9).text() == "1 (90 % interval 1 to 1, n = 2)"
    assert mean_over_seeds([], 0.9).text() == "no value (n = 0)"


# Chaos


def chaos_verdicts(**options):
    return verdicts(chaos_claims("s", {"chaos": chaos_data(**options)}, 0.9))


def test_two_phases_hold():
    found = chaos_verdicts()
    names = ("Early: another basin", "Late: the same basin", "Disagreement falls", "Control")
    assert [found[name] for name in names] == [HOLDS] * 4


def test_hardly_a_barrier_fails_early_and_says_nothing_late():
    found = chaos_verdicts(early=1e-9)
    assert (found["Early: another basin"], found["Late: the same basin"]) == (FAILS, UNDECIDED)


def test_a_barrier_within_two_percent_of_the_loss_is_none():
    assert chaos_verdicts(early=0.005)["Early: another basin"] == UNDECIDED  # the spread reaches beyond
    assert chaos_verdicts(early=0.5)["Early: another basin"] == HOLDS


def test_a_barrier_that_stays_fails_late():
    assert chaos_verdicts(late=0.5)["Late: the same basin"] == FAILS
    assert chaos_verdicts(late=0.1)["Late: the same basin"] == UNDECIDED


def test_disagreement_that_rises_fails_and_one_that_varies_is_undecided():
    assert chaos_verdicts(early_rate=0.1, late_rate=0.3)["Disagreement falls"] == FAILS
    data = chaos_data()
    data["disagreement_rate"].loc[{"t0": 0, "relative_norm": 0.001, "seed": 0}] = 0.0
    assert verdicts(chaos_claims("s", {"chaos": data}, 0.9))["Disagreement falls"] == UNDECIDED


@pytest.mark.parametrize("control", [1e-12, math.nan])
def test_a_control_that_is_not_exact_fails(control):
    assert chaos_verdicts(control=control)["Control"] == FAILS


@pytest.mark.parametrize("name", ["parameter_distance", "disagreement_rate", "growth_distance"])
@pytest.mark.parametrize("number", [1e-12, math.nan])
def test_a_control_must_be_exact_in_every_measure(name, number):
    data = chaos_data()
    cells = data[name].isel(relative_norm=0, t0=0)
    cells = cells.isel(t1=1) if "t1" in cells.dims else cells.isel(steps_after=2)
    cells[0, 0, 0] = number  # a view of the data
    assert control(data).verdict == FAILS


def test_a_control_counts_what_was_compared():
    """Of 3 seeds 3 pairs (t0, t1) in two measures, and 4 steps after 2 t0."""
    assert control(chaos_data()).measured.startswith("largest of 42 distances")


def test_with_one_seed_only_the_control_is_decided():
    found = chaos_verdicts(seeds=1)
    assert found.pop("Control") == HOLDS
    assert set(found.values()) == {UNDECIDED, NOT_MEASURED}
    claim = claim_of(chaos_claims("s", {"chaos": chaos_data(seeds=1)}, 0.9), "Early")
    assert math.isnan(claim.lower)
    assert "n = 1" in claim.measured


def test_numbers_figure_and_level_are_the_claims():
    claim = claim_of(chaos_claims("s", {"chaos": chaos_data()}, 0.8), "Early")
    assert (claim.study, claim.figure, claim.unit, claim.seeds) == ("s", "barrier_gaussian", "nat", 3)
    assert claim.value == pytest.approx(1.0)
    assert claim.lower < 1 < claim.upper
    assert "80 % interval" in claim.measured


def test_one_t0_leaves_the_comparison_out():
    data = chaos_data().isel(t0=[0])
    found = verdicts(chaos_claims("s", {"chaos": data}, 0.9))
    assert (found["Early: another basin"], found["Late: the same basin"]) == (HOLDS, NOT_MEASURED)


@pytest.mark.parametrize(
    ("chaos", "verdict"),
    [("chaotic", HOLDS), ("sensitive", FAILS), ("contracting", FAILS), ("undecided", UNDECIDED)],
)
def test_chaos_in_the_strict_sense_is_that_of_the_earliest_t0(chaos, verdict):
    finding = strict_chaos(transition_data(chaos=chaos), "gaussian")
    assert (finding.verdict, finding.value, finding.unit, finding.reason) == (verdict, 0.1, "1/step", "because")


def test_growth_rates_that_nobody_measured():
    assert strict_chaos(None, "gaussian").verdict == NOT_MEASURED
    assert strict_chaos(transition_data(), "gradient").verdict == NOT_MEASURED


# Transitions


def test_a_transition_found_holds_with_its_step_none_is_undecided_with_its_reason():
    (claim,) = transition_claims("s", transition_data(), of_kernel=False)
    assert (claim.verdict, claim.value, claim.lower, claim.upper) == (HOLDS, 120, 100, 140)
    assert (claim.figure, claim.seeds) == ("transition", 3)
    (claim,) = transition_claims("s", transition_data(found=False), of_kernel=True)
    assert (claim.verdict, claim.reason) == (UNDECIDED, "no change beyond the spread between seeds")
    assert (claim.figure, claim.measured) == ("transition", "none found (n = 3)")
    (claim,) = transition_claims("s", None, of_kernel=True)
    assert claim.verdict == NOT_MEASURED


@pytest.mark.parametrize(("pair", "verdict"), [("together", HOLDS), ("apart", FAILS), ("undecided", UNDECIDED)])
def test_a_pair_has_its_own_verdict(pair, verdict):
    (claim,) = pair_claims("s", transition_data(verdict=pair))
    assert (claim.verdict, claim.paper, claim.value) == (verdict, "Zhou 2025a", 5.0)


def test_a_study_without_pairs():
    assert pair_claims("s", None)[0].verdict == NOT_MEASURED
    assert pair_claims("s", transition_data().isel(pair=[]))[0].verdict == NOT_MEASURED


# Cone


@pytest.mark.parametrize(
    ("early", "seeds", "verdict"), [(0.1, 3, HOLDS), (0.001, 3, FAILS), (0.01, 3, UNDECIDED), (0.1, 1, UNDECIDED)]
)
def test_fast_kernels_at_first(early, seeds, verdict):
    claims = cone_claims("s", {"cone": cone_data(early=early, seeds=seeds)}, 0.9, 20)
    assert claims[0].verdict == verdict
    assert claims[0].value == pytest.approx(early / 0.01, rel=0.02)


@pytest.mark.parametrize(
    ("turn", "seeds", "verdict"), [(0.2, 3, HOLDS), (0.001, 3, FAILS), (0.2, 1, UNDECIDED), (0.05, 3, UNDECIDED)]
)
def test_a_kernel_that_turns(turn, seeds, verdict):
    claim = claim_of(cone_claims("s", {"cone": cone_data(turn=turn, seeds=seeds)}, 0.9, 20), "The kernel turns")
    assert claim.verdict == verdict
    assert claim.value == pytest.approx(turn, rel=0.1)


def test_no_barrier_in_any_seed_is_no_early_barrier():
    cell = xr.Dataset(
        {
            "test_loss_barrier": (("seed", "t0"), np.zeros((3, 2))),
            "test_interpolation_loss": (("seed", "t0", "interpolation"), np.ones((3, 2, 3))),
        },
        coords={"t0": [0, 5], "t1": 20},
    )
    assert early_barrier(cell, 0.9).verdict == FAILS
    assert early_barrier(cell.isel(seed=[0]), 0.9).verdict == UNDECIDED


def test_no_late_kernels_no_ratio():
    for late_from in (0, 41):
        assert cone_claims("s", {"cone": cone_data()}, 0.9, late_from)[0].verdict == NOT_MEASURED


@pytest.mark.parametrize(
    ("drift", "verdict"), [("confined", HOLDS), ("free", FAILS), ("directed", FAILS), ("undecided", UNDECIDED)]
)
def test_narrow_cone(drift, verdict):
    data = {"cone": cone_data(), "cone_opening": opening_data(drift)}
    claim = claim_of(cone_claims("s", data, 0.9, 20), "Narrow cone")
    assert (claim.verdict, claim.value, claim.seeds, claim.figure) == (verdict, 20.0, 3, "cone_opening")
    assert "60° apart" in claim.measured


def test_pairs_need_both_sides():
    data = {"cone": cone_data(), "transition": transition_data()}
    assert not any("same transition" in claim.name for claim in cone_claims("s", data, 0.9, 20))
    assert any("same transition" in claim.name for claim in cone_claims("s", data | {"chaos": chaos_data()}, 0.9, 20))


# Switching


def switching_verdicts(published=(), **options):
    return verdicts(switching_claims("s", {"switching": switching_data(**options)}, 0.9, dict(published)))


def test_late_switches_hold_or_fail():
    names = ("Switch late", "Accuracy rises with s", "Non-linear to the end")
    assert [switching_verdicts()[name] for name in names] == [HOLDS] * 3
    falling = switching_verdicts(accuracies=(0.8, 0.7, 0.6, 0.5), nonlinear=0.3)
    assert [falling[name] for name in names] == [FAILS] * 3
    alone = switching_verdicts(seeds=1)
    assert [alone[name] for name in names] == [UNDECIDED] * 3


def test_a_baseline_just_as_good_is_at_least_as_good():
    assert switching_verdicts(nonlinear=0.8)["Non-linear to the end"] == HOLDS
    assert switching_verdicts(nonlinear=0.79)["Non-linear to the end"] == UNDECIDED


def test_runs_that_diverged_are_left_out_and_counted():
    claims = switching_claims("s", {"switching": switching_data(diverged=[(0, 3)])}, 0.9, {})
    claim = claim_of(claims, "Switch late")
    assert (claim.verdict, claim.seeds) == (HOLDS, 2)
    assert "1 of 6 linearised runs diverged" in claim.reason
    everything = [(seed, place) for seed in range(3) for place in range(4)]
    found = switching_verdicts(diverged=everything)
    assert set(found.values()) == {NOT_MEASURED}


def test_few_or_equal_accuracies_have_no_order():
    assert switching_verdicts(accuracies=(0.5, 0.6))["Accuracy rises with s"] == NOT_MEASURED
    assert switching_verdicts(accuracies=(0.5, 0.5, 0.5))["Accuracy rises with s"] == UNDECIDED
    assert switching_verdicts(accuracies=(0.5,))["Switch late"] == NOT_MEASURED


def test_published_accuracies_stand_beside_ours():
    found = switching_verdicts(published={0: 0.51, 10: 0.9, 15: 0.1, 20: 0.64})
    assert found["Published accuracy at s = 0"] == HOLDS
    assert found["Published accuracy at s = 10"] == FAILS
    assert found["Published accuracy at s = 20"] == UNDECIDED
    assert "Published accuracy at s = 15" not in found


# Phase diagram


def test_signs_of_s_w():
    claims = diagram_claims("d", {"regime": regime_data()}, seeds=2)
    assert [claim.verdict for claim in claims] == [HOLDS] * 3
    assert claims[0].measured.startswith("12 of 12 decided points agree; 0 of 12 undecided")
    claims = diagram_claims("d", {"regime": regime_data(linear=0.5, condensed=-0.5, critical=0.5)}, seeds=2)
    assert [claim.verdict for claim in claims] == [FAILS] * 3
    claims = diagram_claims("d", {"regime": regime_data(half=1.0)}, seeds=2)
    assert [claim.verdict for claim in claims] == [UNDECIDED] * 3
    claims = diagram_claims("d", {"regime": regime_data().isel(gamma=[0, 1])}, seeds=2)
    assert [claim.verdict for claim in claims] == [HOLDS, HOLDS, NOT_MEASURED]


def test_a_contradiction_that_chance_explains_is_undecided():
    def verdict(wrong):
        contradicts = np.arange(12) < wrong
        return share_that_agrees(~contradicts, contradicts, 0.95, 2).verdict

    assert [verdict(wrong) for wrong in (0, 1, 3)] == [HOLDS, UNDECIDED, FAILS]


def test_no_regimes_no_claims():
    assert diagram_claims("d", {}, seeds=2) == []


# Companions


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [HOLDS, HOLDS]),
        ({"late_ratio": 2.0, "sharpness": 0.5}, [FAILS, FAILS]),
        ({"late_ratio": 1.0, "sharpness": 1.0}, [UNDECIDED, UNDECIDED]),
        ({"seeds": 1}, [UNDECIDED, UNDECIDED]),
    ],
)
def test_noise_and_sharpness(options, expected):
    claims = pointwise_claims("s", {"pointwise": pointwise_data(**options)}, 0.9, 20)
    assert [claim.verdict for claim in claims] == expected
    assert {claim.paper for claim in claims} == {OURS}


def test_what_pointwise_lacks_is_not_measured():
    data = {"pointwise": pointwise_data().drop_vars(["sharpness", "gradient_signal_to_noise"])}
    assert [claim.verdict for claim in pointwise_claims("s", data, 0.9, 20)] == [NOT_MEASURED] * 2
    data = {"pointwise": pointwise_data()}
    assert pointwise_claims("s", data, 0.9, 99)[0].verdict == NOT_MEASURED


# All of a study, and the page


def everything():
    return {
        "chaos": chaos_data(),
        "cone": cone_data(),
        "cone_opening": opening_data(),
        "transition": transition_data(),
        "switching": switching_data(),
        "pointwise": pointwise_data(),
    }


def claims_of(data, study="s"):
    return study_claims(study, data, confidence=0.9, late_from=20, published={0: 0.5})


def test_a_study_has_the_claims_of_its_files():
    claims = claims_of(everything())
    assert len({claim.name for claim in claims}) == len(claims) == 17
    assert {claim.verdict for claim in claims} <= set(VERDICTS)
    assert claims_of({}) == []
    assert {claim.figure for claim in claims_of({"switching": switching_data()})} == {"switching"}


class Page(HTMLParser):
    """Tags that close what they open; anchors, links, texts."""

    VOID = ("meta", "img")

    def __init__(self, text):
        super().__init__()
        self.open, self.anchors, self.links, self.texts, self.sources = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.anchors += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        assert tag not in ("script", "link")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parts():
    figures = {"barrier_gaussian": b"png-1", "switching": b"png-2", "unused": b"png-3"}
    regimes = diagram_claims("d", {"regime": regime_data()}, seeds=2)
    return [
        Part("s", "Study s", claims_of(everything()), figures),
        Part("bare", "Study bare", [], {}),
        Part("d", "Phase diagram d", regimes, {"phase_diagram": b"png-4"}),
    ]


def test_the_page_is_whole_and_its_links_lead_into_it():
    text = to_html(parts(), mark="recipe sha256:ab")
    page = Page(text)
    assert text.startswith("<!doctype html><!-- recipe sha256:ab -->")
    assert text.endswith("</html>\n")
    assert len(page.anchors) == len(set(page.anchors))
    assert {link.removeprefix("#") for link in page.links} <= set(page.anchors)
    assert all(link.startswith("#") for link in page.links)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert len(page.sources) == 3  # each once, the unused one not at all
    for claim in parts()[0].claims:
        assert claim.name in page.texts
        assert claim.reason in page.texts


def test_each_verdict_is_a_word_beside_a_sign_and_counted():
    texts = Page(to_html(parts(), mark="m")).texts
    assert "\u2713 holds" in texts
    assert any("Phase diagram d" in text for text in texts)
    assert "no claims: nothing that they are made of is measured" in texts
    assert "3 claims: 3 hold" in texts
    finding = Finding("m", FAILS, "r")
    claim = make_claim("s", "n", "p", "says", "f", finding)
    assert counts_text([claim]) == "1 claim: 1 doesn't hold"


def test_what_would_be_markup_is_escaped():
    nasty = "<b onclick='x'>\"&</b>"
    claim = make_claim(nasty, nasty, nasty, nasty, nasty, Finding(nasty, UNDECIDED, nasty))
    text = to_html([Part(nasty, nasty, [claim], {nasty: b"png"})], mark=nasty)
    assert "<b" not in text.replace("<body", "")
    assert Page(text).texts.count(nasty) >= 5


def test_the_same_claims_give_the_same_bytes():
    assert to_html(parts(), mark="m") == to_html(parts(), mark="m")
    assert to_tsv(parts(), mark="m") == to_tsv(parts(), mark="m")


def test_the_table_has_a_row_a_claim_with_plain_numbers():
    mark, *lines = to_tsv(parts(), mark="recipe sha256:ab").splitlines()
    rows = list(csv.DictReader(lines, delimiter="\t"))
    assert mark == "# recipe sha256:ab"
    assert len(rows) == sum(len(part.claims) for part in parts())
    row = next(row for row in rows if row["name"].startswith("Early"))
    assert float(row["value"]) == pytest.approx(1.0)
    assert float(row["lower"]) < 1 < float(row["upper"])
    assert (row["study"], row["seeds"], row["unit"], row["verdict"]) == ("s", "3", "nat", HOLDS)


# The script


SCRIPT = Path(__file__).parents[2] / "workflow" / "scripts" / "summarize.py"
MADE = {file: make_recipe(file, {}, "0") for file in ("switching", "regime")}
FIGURE = digest(canonical(make_recipe("plot", {}, "0")))


def section(name, file, *, is_diagram, figure, settings):
    folder = f"results/{name}"
    figures = {figure: FIGURE}
    titles = {"name": name, "title": name, "folder": folder, "is_diagram": is_diagram}
    return titles | {"files": [file], "figures": figures, "settings": settings}


def summarized(folder, monkeypatch, *, figure=FIGURE):
    """Run the script on a study and a diagram; the page and the table."""
    monkeypatch.chdir(folder)
    for name, file, data, stem in (
        ("s", "switching", switching_data(), "switching"),
        ("d", "regime", regime_data(), "phase_diagram"),
    ):
        (folder / f"results/{name}/figures").mkdir(parents=True, exist_ok=True)
        write_dataset(f"results/{name}/{file}.nc", data, title="t", recipe=canonical(MADE[file]))
        (folder / f"results/{name}/figures/{stem}.png").write_bytes(b"PNG " + figure.encode())
    settings = {"confidence": 0.9, "late_from": 20, "published": {"0": 0.5}}
    sections = [
        section("s", "switching", is_diagram=False, figure="switching", settings=settings),
        section("d", "regime", is_diagram=True, figure="phase_diagram", settings={"seeds": 2}),
    ]
    inputs = {"results/s/switching.nc": MADE["switching"], "results/d/regime.nc": MADE["regime"]}
    recipe = canonical(make_recipe("summarize", {"sections": sections}, "0", **inputs))
    spec = importlib.util.spec_from_file_location("script_summarize", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    html, table = folder / "results/summary.html", folder / "results/summary.tsv"
    smk = SimpleNamespace(
        log=[str(folder / "log")],
        rule="summarize",
        output=SimpleNamespace(html=str(html), table=str(table)),
        params=SimpleNamespace(recipe=recipe),
        resources={},
        wildcards={},
    )
    script.main(smk)
    assert digest(recipe) in html.read_text()[:200]  # by which a lost record is restored
    return html.read_text(), table.read_text()


def test_the_script_reads_what_each_study_has(tmp_path, monkeypatch):
    page, table = summarized(tmp_path, monkeypatch)
    assert len(Page(page).sources) == 2
    assert "Published accuracy at s = 0" in page
    assert table.count("\n") == 2 + 4 + 3
    assert summarized(tmp_path, monkeypatch) == (page, table)


def test_the_script_refuses_a_figure_that_was_made_otherwise(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        summarized(tmp_path, monkeypatch, figure="recipe sha256:other")
    assert "switching.png was made by other settings" in capsys.readouterr().err
