import re

import pytest

from twophase.trajectories import (
    BRANCH_PATTERN,
    LINEARIZED_PATTERN,
    PARENT,
    Branch,
    Switch,
    anchors_from,
    branch_of,
    checkpoint_at_or_below,
    departure,
    grid_of_branches,
    parse_trajectory,
    start_of_segment,
)

NORMS = [1e-7, 1e-05, 0.01, 0.1, 1 / 3, 1.0, 12.5, 1e16, 1.5e-300]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ["gaussian", "gradient"])
def test_a_name_reads_back(kind, norm):
    branch = branch_of(kind, norm, draw=3, t0=120)
    assert parse_trajectory(branch.name) == branch
    assert re.fullmatch(BRANCH_PATTERN, branch.name)
    assert "/" not in branch.name


def test_names():
    assert branch_of("gaussian", 0.01, 0, 250).name == "gaussian_norm0.01_draw0_at250"
    assert branch_of("gradient", 1, 2, 0).name == "gradient_norm1.0_draw2_at0"
    assert branch_of("gaussian", 0, 5, 250).name == "control_at250"
    assert parse_trajectory("control_at250") == Branch("control", 0.0, 0, 250)
    assert parse_trajectory(PARENT) is None
    assert not re.fullmatch(BRANCH_PATTERN, PARENT)
    assert re.fullmatch(BRANCH_PATTERN, "control_at250")


@pytest.mark.parametrize("rate", NORMS)
def test_a_linearised_runs_name_reads_back(rate):
    switch = Switch(120, rate)
    assert parse_trajectory(switch.name) == switch
    assert re.fullmatch(LINEARIZED_PATTERN, switch.name)
    assert "/" not in switch.name


def test_names_of_linearised_runs():
    assert Switch(200, 0.1).name == "linearized_at200_rate0.1"
    assert Switch(0, 1e-05).name == "linearized_at0_rate1e-05"


NAMES = [PARENT, "control_at250", "gaussian_norm1e-05_draw0_at3", "gradient_norm1e+16_draw12_at0"]
NAMES += [Switch(step, rate).name for step in (0, 250) for rate in NORMS]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_matches_the_pattern_of_one_rule(name):
    patterns = {pattern: re.fullmatch(pattern, name) for pattern in (PARENT, BRANCH_PATTERN, LINEARIZED_PATTERN)}
    kinds = {type(None): PARENT, Branch: BRANCH_PATTERN, Switch: LINEARIZED_PATTERN}
    expected = kinds[type(parse_trajectory(name))]
    assert [pattern for pattern, match in patterns.items() if match] == [expected]


def test_departures():
    names = [PARENT, "control_at250", "gradient_norm0.1_draw2_at7", "gaussian_norm0.1_draw2_at0"]
    names += [Switch(0, 0.1).name, Switch(30, 1e-05).name]
    assert [departure(name) for name in names] == [None, 250, 7, 0, 0, 30]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, [0, 10, 20, 30, 35]),
        (3, [3, 10, 20, 30, 35]),
        (10, [10, 20, 30, 35]),
        (29, [29, 30, 35]),
        (30, [30, 35]),
        (34, [34, 35]),
    ],
)
def test_anchors_from(step, expected):
    assert anchors_from(step, checkpoint_every=10, length=35) == expected


def test_the_end_of_a_run_is_there_once():
    assert anchors_from(3, checkpoint_every=10, length=30) == [3, 10, 20, 30]
    assert anchors_from(0, checkpoint_every=100, length=30) == [0, 30]


@pytest.mark.parametrize(
    "name",
    [
        "linearized",
        "linearized_at3",
        "linearized_at-3_rate0.1",
        "linearized_at3_rate",
        "linearized_at3_rate0.1/",
        "linearized_at3_norm0.1",
        "linearised_at3_rate0.1",
        "",
        "parents",
        "parent_at3",
        "control",
        "control_at",
        "control_at-1",
        "control_at2.5",
        "control_norm0.1_draw0_at3",
        "uniform_norm0.1_draw0_at3",
        "gaussian_norm_draw0_at3",
        "gaussian_norm0.1_at3",
        "gaussian_norm0.1_draw0_at3/",
        "entk",
        "xcontrol_at3",
    ],
)
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=re.escape(repr(name))):
        parse_trajectory(name)
    assert not re.fullmatch(f"{BRANCH_PATTERN}|{LINEARIZED_PATTERN}", name)


def test_the_grid_has_each_branch_and_each_control_once():
    grid = grid_of_branches([0, 250], ["gaussian", "gradient"], [0.1, 0.01], draws=3)
    cells = {
        (kind, norm, draw, t0)
        for t0 in (0, 250)
        for kind in ("gaussian", "gradient")
        for norm in (0.01, 0.1)
        for draw in range(3)
    } | {("control", 0.0, 0, 0), ("control", 0.0, 0, 250)}
    found = [(branch.kind, branch.relative_norm, branch.draw, branch.t0) for branch in grid]
    assert len(found) == len(cells) == 2 * (1 + 2 * 2 * 3)
    assert set(found) == cells
    assert len({branch.name for branch in grid}) == len(grid)
    for t0 in (0, 250):
        assert next(branch for branch in grid if branch.t0 == t0).kind == "control"


@pytest.mark.parametrize("norms", [[0, 0.1], [0.0, 0.1], [0.1], [0.1, 0]])
def test_the_control_is_in_the_grid_whether_asked_for_or_not(norms):
    names = [branch.name for branch in grid_of_branches([5], ["gaussian"], norms, draws=1)]
    assert names == ["control_at5", "gaussian_norm0.1_draw0_at5"]


ON_ANCHOR, OFF_ANCHOR, AT_START, BELOW_FIRST = (f"gaussian_norm0.1_draw0_at{t0}" for t0 in (20, 23, 0, 3))
LINEAR_ON, LINEAR_OFF, LINEAR_START = (Switch(step, 0.1).name for step in (20, 23, 0))


@pytest.mark.parametrize(
    ("trajectory", "step", "expected"),
    [
        (PARENT, 1, (PARENT, 0)),
        (PARENT, 10, (PARENT, 0)),
        (PARENT, 11, (PARENT, 10)),
        (PARENT, 40, (PARENT, 30)),
        (ON_ANCHOR, 20, (PARENT, 20)),
        (ON_ANCHOR, 21, (PARENT, 20)),
        (ON_ANCHOR, 30, (PARENT, 20)),
        (ON_ANCHOR, 31, (ON_ANCHOR, 30)),
        (ON_ANCHOR, 40, (ON_ANCHOR, 30)),
        (OFF_ANCHOR, 23, (PARENT, 20)),
        (OFF_ANCHOR, 24, (PARENT, 20)),
        (OFF_ANCHOR, 30, (PARENT, 20)),
        (OFF_ANCHOR, 31, (OFF_ANCHOR, 30)),
        (OFF_ANCHOR, 40, (OFF_ANCHOR, 30)),
        (AT_START, 0, (PARENT, 0)),
        (AT_START, 10, (PARENT, 0)),
        (AT_START, 20, (AT_START, 10)),
        (BELOW_FIRST, 10, (PARENT, 0)),
        (BELOW_FIRST, 20, (BELOW_FIRST, 10)),
        ("control_at20", 30, (PARENT, 20)),
        ("control_at20", 40, ("control_at20", 30)),
        (LINEAR_ON, 21, (PARENT, 20)),
        (LINEAR_ON, 30, (PARENT, 20)),
        (LINEAR_ON, 31, (LINEAR_ON, 30)),
        (LINEAR_OFF, 24, (PARENT, 20)),
        (LINEAR_OFF, 30, (PARENT, 20)),
        (LINEAR_OFF, 40, (LINEAR_OFF, 30)),
        (LINEAR_START, 10, (PARENT, 0)),
        (LINEAR_START, 11, (LINEAR_START, 10)),
    ],
)
def test_start_of_segment(trajectory, step, expected):
    assert start_of_segment(trajectory, step, checkpoint_every=10) == expected


@pytest.mark.parametrize(
    ("trajectory", "step", "expected"),
    [
        (PARENT, 0, (PARENT, 0)),
        (PARENT, 7, (PARENT, 0)),
        (PARENT, 10, (PARENT, 10)),
        (PARENT, 19, (PARENT, 10)),
        (ON_ANCHOR, 20, (PARENT, 20)),  # a branch has no checkpoint of its own at its t0
        (ON_ANCHOR, 25, (PARENT, 20)),
        (ON_ANCHOR, 30, (ON_ANCHOR, 30)),
        (ON_ANCHOR, 35, (ON_ANCHOR, 30)),
        (OFF_ANCHOR, 23, (PARENT, 20)),
        (OFF_ANCHOR, 29, (PARENT, 20)),
        (OFF_ANCHOR, 30, (OFF_ANCHOR, 30)),
        (OFF_ANCHOR, 31, (OFF_ANCHOR, 30)),
        (AT_START, 0, (PARENT, 0)),
        (AT_START, 9, (PARENT, 0)),
        (AT_START, 10, (AT_START, 10)),
        (BELOW_FIRST, 3, (PARENT, 0)),
        (BELOW_FIRST, 15, (BELOW_FIRST, 10)),
        (LINEAR_ON, 20, (PARENT, 20)),
        (LINEAR_ON, 30, (LINEAR_ON, 30)),
        (LINEAR_OFF, 29, (PARENT, 20)),
        (LINEAR_OFF, 35, (LINEAR_OFF, 30)),
        (LINEAR_START, 0, (PARENT, 0)),
        (LINEAR_START, 10, (LINEAR_START, 10)),
    ],
)
def test_checkpoint_at_or_below(trajectory, step, expected):
    assert checkpoint_at_or_below(trajectory, step, checkpoint_every=10) == expected


@pytest.mark.parametrize("trajectory", [PARENT, ON_ANCHOR, OFF_ANCHOR, AT_START, BELOW_FIRST, LINEAR_ON, LINEAR_OFF])
@pytest.mark.parametrize("every", [1, 7, 10, 100])
def test_every_checkpoint_is_reached_from_the_parents_first(trajectory, every):
    left = departure(trajectory)
    for step in range(left or 0, 60):
        place, path = checkpoint_at_or_below(trajectory, step, every), []
        while place != (PARENT, 0):
            assert place not in path
            path.append(place)
            assert place[1] <= step
            assert place[1] % every == 0
            assert left is None or place[0] == PARENT or place[1] > left
            place = start_of_segment(*place, every)
        assert len(path) <= 60 // every + 1
