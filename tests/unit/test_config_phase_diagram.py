import copy
import itertools
import math
import re

import numpy as np
import pytest
import yaml

from twophase.config import read_config
from twophase.config_types import ValueRange
from twophase.errors import ConfigError
from twophase.phase_diagram.grid import TILE_PATTERN

BASE = yaml.safe_load("""
run: [map]
phase_diagrams:
  map:
    points:
      inputs: [-1, -0.3, 0.5, 1]
      targets: [0.5, -0.2, 0.1, 0]
    gamma: [{start: 0.5, stop: 1.5, every: 0.25}, 2]
    gamma_prime: [-0.5, 0, 0.5]
    widths: [100, 1000]
    seeds: [0, 1, 2]
    shown_points: [{gamma: 0.75, gamma_prime: -0.5}]
""")
ABSENT = object()


def changed(*edits):
    """The base with some values set, or absent; keys begin below the diagram, or with a slash at the root."""
    raw = copy.deepcopy(BASE)
    for key, value in edits:
        *sections, last = key[1:].split("/") if key.startswith("/") else ["phase_diagrams", "map", *key.split("/")]
        section = raw
        for name in sections:
            section = section.setdefault(name, {})
        if value is ABSENT:
            del section[last]
        else:
            section[last] = value
    return raw


def problems_of(raw):
    """Message by key of what is wrong."""
    with pytest.raises(ConfigError) as caught:
        read_config(raw)
    first, *lines = str(caught.value).splitlines()
    assert first == f"The config has {len(lines)} problem(s):"
    return {
        key.removeprefix("phase_diagrams.map."): message
        for key, message in (line.strip().split(": ", 1) for line in lines)
    }


def diagram(*edits):
    return read_config(changed(*edits)).phase_diagrams["map"]


def value_range(start, stop, every, **more):
    return [{"start": start, "stop": stop, "every": every} | more]


def shown_points(*points):
    return [{"gamma": gamma, "gamma_prime": gamma_prime} for gamma, gamma_prime in points]


IMAGES = {"source": "embedded_fashion_mnist", "image_size": 8, "grey": True, "train_examples": 50}
POINTS_OF = ("points", ABSENT)
# (what is set, the key at which it is wrong, what the message says)
BROKEN = {
    "neither points nor images": ([("points", ABSENT)], "points", "either points or images, got neither"),
    "points that are null": ([("points", None)], "points", "either points or images, got neither"),
    "points and images": ([("images", IMAGES)], "points", "either points or images, got both"),
    "points that are a list": ([("points", [0, 1])], "points", r"expected a section.*got \[0, 1\]"),
    "more inputs than targets": (
        [("points/inputs", [0, 1, 2, 3, 4])],
        "points.targets",
        "one for each of the 5 inputs, got 4",
    ),
    "more targets than inputs": ([("points/inputs", [0])], "points.targets", "one for each of the 1 inputs, got 4"),
    "no inputs key": ([("points/inputs", ABSENT)], "points.inputs", "is missing; expected: Input x"),
    "no targets key": ([("points/targets", ABSENT)], "points.targets", "is missing; expected: Target y"),
    "no inputs": ([("points/inputs", [])], "points.inputs", r"at least 1 .*got \[\]"),
    "a number for inputs": ([("points/inputs", 5)], "points.inputs", "expected a list, got 5"),
    "text for an input": ([("points/inputs", [0, "x", 1, 2])], "points.inputs[1]", "valid number.*got 'x'"),
    "bool for an input": ([("points/inputs", [0, True, 1, 2])], "points.inputs[1]", "expected a number, got True"),
    "bool for a target": ([("points/targets", [0, 1, 2, False])], "points.targets[3]", "expected a number, got False"),
    "infinite input": ([("points/inputs", [0, 1, 2, math.inf])], "points.inputs[3]", "finite number, got inf"),
    "nan for a target": ([("points/targets", [math.nan, 1, 2, 3])], "points.targets[0]", "finite number, got nan"),
    "misspelt in points": ([("points/input", [0, 1, 2, 3])], "points.input", "unknown key; did you mean 'inputs'?"),
    "misspelt in images": (
        [POINTS_OF, ("images", IMAGES | {"gray": True})],
        "images.gray",
        "unknown key; did you mean 'grey'?",
    ),
    "an unknown source": (
        [POINTS_OF, ("images", {"source": "mnst"})],
        "images.source",
        "got 'mnst'; did you mean 'mnist'?",
    ),
    "no folder": ([POINTS_OF, ("images", {"source": "image_folder"})], "images.folder", "is needed with source"),
    "a folder of another source": ([POINTS_OF, ("images", IMAGES | {"folder": "x"})], "images.folder", "no meaning"),
    "label noise": (
        [POINTS_OF, ("images", IMAGES | {"label_noise": 0.1})],
        "images.label_noise",
        "is for studies, a phase diagram has none; got 0.1",
    ),
    "too many images": (
        [POINTS_OF, ("images", IMAGES | {"train_examples": 10_001})],
        "images.train_examples",
        "asks for 10001 images, the source has 10000",
    ),
    "a grid that is a number": ([("gamma", 0.5)], "gamma", "expected a list, got 0.5"),
    "no gamma": ([("gamma", [])], "gamma", r"grid is empty; give at least one value, got \[\]"),
    "no gamma_prime": ([("gamma_prime", [])], "gamma_prime", r"grid is empty; give at least one value, got \[\]"),
    "no gamma key": ([("gamma", ABSENT)], "gamma", "is missing; expected: Values of gamma"),
    "bool for gamma": ([("gamma", [0.75, True])], "gamma[1]", "expected a number, got True"),
    "only a bool for gamma": ([("gamma", [True])], "gamma[0]", "expected a number, got True"),
    "text for gamma": ([("gamma", [0.75, "half"])], "gamma[1]", "valid number.*got 'half'"),
    "null for gamma": ([("gamma", [None, 0.75])], "gamma[0]", "valid number, got None"),
    "nan for gamma": ([("gamma", [0.75, math.nan])], "gamma[1]", "finite number, got nan"),
    "gamma beyond": ([("gamma", [-10, 0.75, 10.5])], "gamma", r"between -10 and 10, got \[10.5\]"),
    "gamma' below": ([("gamma_prime", [-0.5, -11])], "gamma_prime", r"between -10 and 10, got \[-11.0\]"),
    "a range beyond": ([("gamma", [0.75, *value_range(5, 20, 5)])], "gamma", r"10, got \[15.0, 20.0\]"),
    "every 0": ([("gamma", [0.75, *value_range(0, 1, 0)])], "gamma[1].every", "greater than 0, got 0"),
    "every below 0": ([("gamma", value_range(1, 0, -0.1))], "gamma[0].every", "greater than 0, got -0.1"),
    "bool for every": ([("gamma", value_range(0, 1, True))], "gamma[0].every", "expected a number, got True"),
    "bool for start": ([("gamma", value_range(False, 1, 0.5))], "gamma[0].start", "expected a number, got False"),
    "bool for stop": (
        [("gamma_prime", value_range(0, True, 0.5))],
        "gamma_prime[0].stop",
        "expected a number, got True",
    ),
    "a range backwards": ([("gamma", value_range(1, 0.5, 0.1))], "gamma[0]", "stop that is not below the start, got {"),
    "an endless range": ([("gamma", value_range(0, 1, 1e-9))], "gamma[0]", "at most 1000000 values, got {"),
    "a range without every": (
        [("gamma", [0.75, {"start": 0, "stop": 1}])],
        "gamma[1].every",
        "is missing; expected: Distance of two values",
    ),
    "misspelt in a range": (
        [("gamma", [0.75, *value_range(0, 1, 0.5, step=2)])],
        "gamma[1].step",
        "unknown key; did you mean 'stop'?",
    ),
    "no widths": ([("widths", [])], "widths", r"empty; give at least one value, got \[\]"),
    "no widths key": ([("widths", ABSENT)], "widths", "is missing; expected: Hidden neurons"),
    "repeated widths": (
        [("widths", [10, 30, 10])],
        "widths",
        r"each value once, \[10\] is repeated, got \[10, 30, 10\]",
    ),
    "repeated width, one as text": ([("widths", [10, "10"])], "widths", r"each value once, \[10\] is repeated"),
    "width 0": ([("widths", [10, 0])], "widths[1]", "greater than 0, got 0"),
    "width and a half": ([("widths", [10, 2.5])], "widths[1]", "valid integer.*got 2.5"),
    "bool for a width": ([("widths", [10, True])], "widths[1]", "expected a number, got True"),
    "a range of widths": ([("widths", [10, *value_range(20, 40, 5)])], "widths[1]", "valid integer, got {'start': 20"),
    "repeated seeds": ([("seeds", [3, 1, 3])], "seeds", r"each value once, \[3\] is repeated, got \[3, 1, 3\]"),
    "no seeds": ([("seeds", [])], "seeds", "empty; give at least one value"),
    "negative seed": ([("seeds", [-1])], "seeds[0]", "greater than or equal to 0, got -1"),
    "tolerance too large": ([("tolerance", 0.02)], "tolerance", "less than or equal to 0.01, got 0.02"),
    "tolerance too small": ([("tolerance", 1e-9)], "tolerance", "greater than or equal to .*1.*, got 1e-09"),
    "bool for the tolerance": ([("tolerance", True)], "tolerance", "expected a number, got True"),
    "no loss tolerance": ([("loss_tolerance", 0)], "loss_tolerance", "greater than 0, got 0"),
    "all of the loss": ([("loss_tolerance", 1)], "loss_tolerance", "less than 1, got 1"),
    "no evaluations": ([("most_evaluations", 0)], "most_evaluations", "greater than 0, got 0"),
    "confidence in per cent": ([("confidence", 95)], "confidence", "less than 1, got 95"),
    "no confidence": ([("confidence", 0)], "confidence", "greater than 0, got 0"),
    "no band": ([("critical_slope", 0)], "critical_slope", "greater than 0, got 0"),
    "bool for the band": ([("critical_slope", True)], "critical_slope", "expected a number, got True"),
    "no neurons shown": ([("shown_width", 0)], "shown_width", "greater than 0, got 0"),
    "a shown point off the grid": (
        [("shown_points", shown_points((0.75, 0), (0.8, 0), (0.75, 0.1)))],
        "shown_points",
        r"on the grid of gamma and gamma_prime, got \[\[0.8, 0.0\], \[0.75, 0.1\]\]",
    ),
    "seven shown points": (
        [("shown_points", shown_points(*itertools.product([0.5, 0.75, 1], [-0.5, 0, 0.5]))[:7])],
        "shown_points",
        r"at most 6 .*got \[\{",
    ),
    "no shown points": ([("shown_points", [])], "shown_points", r"at least 1 .*got \[\]"),
    "no shown points key": ([("shown_points", ABSENT)], "shown_points", "is missing; expected: Grid points"),
    "half a shown point": ([("shown_points", [{"gamma": 0.5}])], "shown_points[0].gamma_prime", "is missing; expected"),
    "a shown point as a pair": ([("shown_points", [[0.5, 0]])], "shown_points[0]", "expected a section.*got .0.5, 0"),
    "bool in a shown point": (
        [("shown_points", shown_points((0.5, False)))],
        "shown_points[0].gamma_prime",
        "expected a number, got False",
    ),
    "misspelt": ([("shown_point", [])], "shown_point", "unknown key; did you mean 'shown_points'?"),
    "misspelt beside the right one": ([("gama", [1])], "gama", "unknown key; did you mean 'gamma'?"),
    "unknown, like nothing": ([("zzz", 1)], "zzz", "unknown key; expected one of points, images, gamma"),
    "of a study": ([("switching", {})], "switching", "unknown key; expected one of points, images, gamma"),
    "misspelt at the root": ([("/phase_diagram", {})], "phase_diagram", "did you mean 'phase_diagrams'?"),
    "a study's name": ([("/studies", {"map": {}})], "phase_diagrams.map", "name of a study too; rename .* got 'map'"),
    "a reserved study": (
        [("/studies", {"phase_diagram": {}})],
        "studies.phase_diagram",
        "another use below results.*got 'phase_diagram'",
    ),
    "run of an unknown diagram": ([("/run", ["mpa"])], "run", "'mpa', which is neither a study nor.*you mean 'map'"),
    "a diagram that is null": ([("/phase_diagrams/map", None)], "phase_diagrams.map", "a section.*got None"),
    "diagrams that are a list": ([("/phase_diagrams", [1])], "phase_diagrams", r"names with their sections, got \[1\]"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_diagram_names_key_expectation_and_value(name):
    edits, key, message = BROKEN[name]
    found = problems_of(changed(*edits))
    assert list(found) == [key]
    assert re.search(message, found[key]), found[key]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "1a", "a b", "a\n"])
def test_a_diagram_cannot_leave_its_folder(name):
    raw = {"phase_diagrams": {name: BASE["phase_diagrams"]["map"]}}
    with pytest.raises(ConfigError, match="begins with a letter"):
        read_config(raw)


def test_all_problems_come_at_once():
    raw = changed(
        *[("points/targets", [1, 2]), ("gamma", [0.75, "x"]), ("gamma_prime", [-0.5, 11]), ("widths", [10, 0])],
        *[("tolerance", 1), ("shown_wdth", 10), ("/phase_diagrams/other", {"images": {"source": "cifar"}})],
        ("shown_points", shown_points((3, 0))),  # not told: some of gamma is unknown
    )
    assert set(problems_of(raw)) == {
        *["points.targets", "gamma[1]", "gamma_prime", "widths[1]", "tolerance", "shown_wdth"],
        *[f"phase_diagrams.other.{key}" for key in ("images.source", "gamma", "gamma_prime", "widths", "shown_points")],
    }


@pytest.mark.parametrize(
    ("edits", "keys"),
    [
        ([("points", []), ("images", [])], {"points", "images"}),
        ([POINTS_OF, ("images", [1])], {"images"}),
        ([("gamma", [0.5, "x"])], {"gamma[1]"}),
        ([("gamma_prime", [-0.5, {"start": 1, "stop": 0, "every": 1}, 0])], {"gamma_prime[1]"}),
        ([("points/inputs", [0, "x"])], {"points.inputs[1]"}),
        ([POINTS_OF, ("images", {"source": "cifar", "train_examples": 99_999})], {"images.source"}),
        ([("gamma", [12]), ("shown_points", shown_points((12, 0)))], {"gamma"}),
        ([("gamma", []), ("gamma_prime", [])], {"gamma", "gamma_prime"}),
    ],
)
def test_what_only_follows_from_a_mistake_is_not_reported(edits, keys):
    assert set(problems_of(changed(*edits))) == keys


ODD = [None, True, 0, 1.5, "x", b"x", [], [[]], [{}], (), {}, set(), object(), math.nan, 10**400, -(10**5000), "\ud800"]
ODD += [{"a": 1}, {1: 2}, {None: None}, {"name": []}, [{"start": 0}], [None], [[0]], {"<value>": 1}, {"[key]": 1}]
ODD += [[{"start": -1e308, "stop": 1e308, "every": 1e-308}], [{"start": 1e308, "stop": 1e308, "every": 1e300}]]
ODD += [[{"start": 0, "stop": 10**400, "every": 1}], [1e308], [-1e-320], ["1e400"], [{"gamma": [], "gamma_prime": {}}]]
PLACES = ["/phase_diagrams", "/phase_diagrams/map", "/phase_diagrams/other", "points/inputs", "points/targets"]
PLACES += ["points", "images", "gamma", "gamma_prime", "widths", "seeds", "tolerance", "loss_tolerance", "confidence"]
PLACES += ["most_evaluations", "critical_slope", "shown_points", "shown_width", "images/source", "images/folder"]


@pytest.mark.parametrize("place", PLACES)
def test_nothing_but_a_config_error_is_raised(place):
    messages = []
    for value in ODD:
        try:
            read_config(changed((place, value)))
        except ConfigError as error:
            messages += str(error).splitlines()
    assert any("problem(s)" in message for message in messages)
    assert max(map(len, messages)) < 500


# Values of a grid


def gammas_of(grid):
    """What a grid of gamma is read as."""
    first = grid[0]["start"] if isinstance(grid[0], dict) else grid[0]
    return diagram(("gamma", grid), ("shown_points", shown_points((first, 0)))).gamma


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ((0.1, 0.5, 0.1), [0.1, 0.2, 0.3, 0.4, 0.5]),
        ((-0.3, 0.3, 0.1), [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]),
        ((0, 1, 0.3), [0.0, 0.3, 0.6, 0.9]),
        ((0.5, 0.5, 0.1), [0.5]),
        ((0, 0.29, 0.1), [0.0, 0.1, 0.2]),
        ((1, 2, 5), [1.0]),
        ((-1, -0.5, 0.25), [-1.0, -0.75, -0.5]),
        (("-5e-1", "5e-1", "0.5"), [-0.5, 0.0, 0.5]),
    ],
)
def test_a_range_gives_round_values(written, values):
    found = gammas_of(value_range(*written))
    assert found == values
    assert {type(value) for value in found} == {float}


def test_every_range_of_hundredths_gives_the_numbers_that_one_would_write():
    random = np.random.default_rng(0)
    for _ in range(500):
        first, every, count = int(random.integers(-300, 300)), int(random.integers(1, 80)), int(random.integers(1, 60))
        written = [float(f"{(first + place * every) / 100:.2f}") for place in range(count)]
        found = ValueRange(start=first / 100, stop=written[-1], every=every / 100).values()
        assert found == written
        beyond = ValueRange(start=first / 100, stop=written[-1] + 0.5 * every / 100, every=every / 100).values()
        assert beyond == written


@pytest.mark.parametrize("written", [(-3.45, 3.45, 0.15), (-0.0, 1, 0.5), (-0.35, 0.35, 0.05), (-2.1, 0, 0.7)])
def test_zero_has_no_sign(written):
    for grid in (value_range(*written), [*value_range(*written), -0.0], [-0.0, *value_range(*written)]):
        found = gammas_of(grid)
        assert [math.copysign(1, value) for value in found if value == 0] == [1]  # a recipe tells -0.0 from 0.0


def test_values_and_ranges_are_one_sorted_grid_without_repetition():
    written = [3, *value_range(0, 1, 0.25), 0.5, "0.1", *value_range(0.5, 1.5, 0.5)]
    assert gammas_of(written) == [0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 3.0]
    assert gammas_of(list(reversed(written))) == gammas_of(written)
    assert gammas_of([-10, 10]) == [-10.0, 10.0]


def test_a_shown_point_may_be_any_value_of_a_range():
    for gamma in (0.1, 0.2, 0.3, 0.6, 0.7):
        found = diagram(("gamma", value_range(0, 1, 0.1)), ("shown_points", shown_points((gamma, -0.5))))
        assert found.shown_points[0].gamma == gamma
    six = shown_points(*itertools.product([0.5, 0.75, 1], [-0.5, 0]))
    assert len(diagram(("shown_points", six)).shown_points) == 6


# What a right one means


def test_the_diagrams_that_run():
    other = ("/phase_diagrams/other", {**BASE["phase_diagrams"]["map"], "seeds": [5]})
    studies = ("/studies", {"tiny": {}})
    both = read_config(changed(other, studies))
    assert (list(both.selected()), list(both.selected_diagrams())) == ([], ["map"])
    both = read_config(changed(other, studies, ("/run", ["tiny", "other"])))
    assert (list(both.selected()), list(both.selected_diagrams())) == (["tiny"], ["other"])
    assert both.selected_diagrams()["other"].seeds == [5]
    both = read_config(changed(other, studies, ("/run", None)))
    assert (list(both.selected()), list(both.selected_diagrams())) == (["tiny"], ["map", "other"])


def test_checks_between_fields_are_for_the_diagrams_that_run():
    beyond = ("/phase_diagrams/other", {**BASE["phase_diagrams"]["map"], "gamma": [0.75, 99]})
    assert list(read_config(changed(beyond)).selected_diagrams()) == ["map"]
    assert set(problems_of(changed(beyond, ("/run", None)))) == {"phase_diagrams.other.gamma"}


def test_defaults():
    found = diagram(("seeds", ABSENT))
    assert found.seeds == [0, 1]
    assert found.accuracy() == {"tolerance": 1e-5, "loss_tolerance": 1e-6, "most_evaluations": 200_000}
    assert (found.confidence, found.critical_slope, found.shown_width) == (0.95, 0.1, 1000)
    assert found.images is None


@pytest.mark.parametrize(
    "edit",
    [
        *[("gamma", [0.75]), ("gamma_prime", [-0.5]), ("widths", [5]), ("seeds", [9]), ("confidence", 0.5)],
        *[
            ("critical_slope", 1),
            ("shown_points", shown_points((1, 0))),
            ("shown_width", 3),
            ("points/targets", [1, 2, 3, 4]),
        ],
    ],
)
def test_only_its_accuracy_decides_how_a_network_is_integrated(edit):
    assert diagram(edit).accuracy() == diagram().accuracy()


@pytest.mark.parametrize("edit", [("tolerance", 1e-3), ("loss_tolerance", 1e-3), ("most_evaluations", 10)])
def test_every_accuracy_decides_how_a_network_is_integrated(edit):
    assert diagram(edit).accuracy() == diagram().accuracy() | dict([edit])


def test_images_instead_of_points():
    found = diagram(POINTS_OF, ("images", IMAGES))
    assert found.points is None
    assert found.images.train_size() == 50
    assert diagram(POINTS_OF, ("images", {})).images.source == "embedded_fashion_mnist"


def test_the_tiles_hold_the_grid_and_the_networks_of_each_point():
    found = diagram()
    points = set()
    for name, axes in found.tiles().items():
        assert re.fullmatch(TILE_PATTERN, name)
        assert (axes["widths"], axes["seeds"]) == ([100, 1000], [0, 1, 2])
        assert set(axes) == {"gamma", "gamma_prime", "widths", "seeds"}
        points |= set(itertools.product(axes["gamma"], axes["gamma_prime"]))
    assert points == set(itertools.product(found.gamma, found.gamma_prime))
    assert sum(len(axes["gamma"]) * len(axes["gamma_prime"]) for axes in found.tiles().values()) == len(points) == 18
    assert len(found.tiles()) == 4 * 3
