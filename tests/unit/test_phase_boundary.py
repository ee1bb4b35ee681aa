"""Transitions and growth of a study: synthetic curves with known answers, a real linear model, and what is missing."""

import numpy as np
import pytest
import torch
import xarray as xr
from tiny import run_settings, tiny_images
from torch import nn

from twophase.branch_comparison import compare_branch
from twophase.chaos import MEASURES, grid_of_comparisons
from twophase.cone import cone_of_seed, cone_of_seeds
from twophase.entk import empirical_ntk
from twophase.phase_boundary import phase_boundary
from twophase.plotting import style_context, transition
from twophase.replay import run_at
from twophase.storage import write_dataset
from twophase.trajectories import branch_of

T0 = np.array([0, 5, 10, 20, 40, 80, 160])
SIZES = [1e-4, 1e-3, 1e-2]
STEPS = np.arange(0, 660, 20)


def hinge(steps, tau):
    """1 at the first step, 0 from tau on, straight over log(1 + t / first step)."""
    u = np.log1p(np.asarray(steps, float) / 5)
    return np.maximum(0, (np.log1p(tau / 5) - u) / np.log1p(tau / 5))


def chaos_dataset(*, seeds=4, tau=30.0, rate=0.2, noise=0.01, disagreement=0.1, growth_steps=30):
    """Barriers that fall until tau, disagreement that doesn't change, growth at a constant rate at every t0."""
    rng = np.random.default_rng(3)
    axes = {
        "seed": np.arange(seeds),
        "kind": ["gaussian"],
        "relative_norm": [0.0, *SIZES],
        "draw": [0, 1],
        "t0": T0,
        "t1": [200, 300],
    }
    shape = tuple(map(len, axes.values()))

    def noisy(values):
        return values + noise * rng.standard_normal(shape)

    of_t0 = hinge(T0, tau)[:, None]
    variables = {name: (tuple(axes), noisy(np.zeros(shape))) for name in MEASURES}
    variables["test_loss_barrier"] = (tuple(axes), noisy(np.broadcast_to(of_t0, shape)))
    variables["disagreement_rate"] = (tuple(axes), noisy(np.full(shape, disagreement)))
    after = np.arange(growth_steps + 1)
    sizes = np.array([0.0, *SIZES])[None, None, :, None, None, None] * 50
    rates = rate * (1 + 0.02 * rng.standard_normal((seeds, 1, 1, 2, len(T0), 1)))
    variables["growth_distance"] = ((*list(axes)[:-1], "steps_after"), sizes * np.exp(rates * after))
    variables["parameter_norm"] = (("seed", "t0"), np.full((seeds, len(T0)), 50.0))
    return xr.Dataset(variables, coords=axes | {"steps_after": after})


def cone_dataset(*, seeds=4, tau=60.0, noise=0.03):
    """Kernel velocities over 20 steps whose logarithm falls until tau, and some over 10 and 40 that fall for ever."""
    rng = np.random.default_rng(4)
    u, end, start = np.log(STEPS + 10), np.log(tau), np.log(10)
    shape = np.maximum(0, (end - u) / (end - start))
    distance = np.full((seeds, 3, len(STEPS)), np.nan)
    distance[:, 0, :2] = 0.1  # too few pairs
    distance[:, 1] = 20 * 10 ** (-4 + 2 * shape + noise * rng.standard_normal((seeds, len(u))))
    distance[:, 2] = 40 * 10 ** (-u)
    distance[:, 1, -1] = distance[:, 2, -2:] = np.nan
    return xr.Dataset(
        {"interval_distance": (("seed", "interval", "step"), distance)},
        coords={"seed": range(seeds), "interval": [10, 20, 40], "step": STEPS},
    )


def boundary_of(chaos, cone, *, dtype=np.float64, confidence=0.9):
    return phase_boundary(
        chaos, cone, learning_rate_at=lambda step: 0.1, dtype=dtype, test_examples=1000, confidence=confidence
    )


@pytest.fixture(scope="module")
def boundary():
    return boundary_of(chaos_dataset(), cone_dataset())


def test_transitions_that_are_there_are_found(boundary):
    for size in SIZES:
        barrier = boundary.sel(curve=f"test_loss_barrier gaussian {size:g}")
        assert barrier["found"] == 1
        assert barrier["transition_lower"] < 30 < barrier["transition_upper"]
        assert (barrier["curve_relative_norm"], barrier["curve_kind"]) == (size, "gaussian")
    velocity = boundary.sel(curve="kernel_velocity")
    assert velocity["found"] == 1
    assert velocity["transition_step"] == pytest.approx(60, rel=0.2)
    assert np.isnan(velocity["curve_relative_norm"])
    assert boundary["velocity_interval"] == 20


def test_what_is_constant_has_no_transition_and_no_number(boundary):
    for size in SIZES:
        for measure in ("disagreement_rate", "growth_exponent"):
            curve = boundary.sel(curve=f"{measure} gaussian {size:g}")
            assert curve["found"] == 0
            assert "no change" in curve["reason"].item()
            assert np.isnan(curve["transition_step"])
            assert np.isnan(curve["seed_transition_step"]).all()


def test_a_change_of_disagreement_below_its_noise_floor_is_none():
    chaos = chaos_dataset(noise=1e-4)
    small = xr.zeros_like(chaos["disagreement_rate"]) + xr.DataArray(hinge(T0, 30), dims="t0") * 0.02 + 0.1
    noise = 1e-4 * np.random.default_rng(5).standard_normal(small.shape)
    boundary = boundary_of(chaos.assign(disagreement_rate=small + noise), None)
    curve = boundary.sel(curve="disagreement_rate gaussian 0.001")
    assert float(curve["noise_floor"]) == pytest.approx(2 * (2 * 0.1 * 0.9 / 1000) ** 0.5, rel=0.01)
    assert curve["found"] == 0
    assert "noise floor" in curve["reason"].item()
    many = phase_boundary(
        chaos.assign(disagreement_rate=small + noise),
        None,
        learning_rate_at=lambda step: 0.1,
        dtype=np.float64,
        test_examples=1_000_000,
        confidence=0.9,
    )
    assert many.sel(curve="disagreement_rate gaussian 0.001")["found"] == 1


def test_growth_by_step_and_by_learning_rate(boundary):
    assert boundary["growth_exponent"].values == pytest.approx(0.2, rel=0.03)
    assert (boundary["growth_exponent_lower"] < 0.2).mean() > 0.8
    assert boundary["growth_rate_exponent"].values == pytest.approx(boundary["growth_exponent"].values / 0.1)
    assert (boundary["growth_shape"] == "exponential").all()
    assert (boundary["chaos_verdict"] == "chaotic").all()
    assert boundary["relative_size"].sel(relative_norm=1e-3).values == pytest.approx(1e-3)


def test_sizes_near_rounding_are_marked_and_have_no_transition():
    boundary = boundary_of(chaos_dataset(), None, dtype=np.float16)
    assert boundary["near_rounding"].sel(relative_norm=1e-4).all()
    assert not boundary["near_rounding"].sel(relative_norm=1e-2).any()
    assert "rounding" in boundary.sel(curve="growth_exponent gaussian 0.0001")["reason"].item()
    assert "left out: near rounding" in boundary["chaos_reason"].values[0, 0]


def test_pairs_are_of_one_perturbation_or_with_the_kernel(boundary):
    assert boundary.sizes["pair"] == 3 * 3 + 3 * 3
    apart = boundary_of(chaos_dataset(tau=10), cone_dataset(tau=200))
    pair = apart.sel(pair="test_loss_barrier gaussian 0.001 | kernel_velocity")
    assert pair["verdict"] == "apart"
    assert pair["difference_upper"] < 0
    assert float(pair["difference"]) == pytest.approx(-190, rel=0.3)
    near = boundary_of(chaos_dataset(tau=60), cone_dataset()).sel(
        pair="test_loss_barrier gaussian 0.001 | kernel_velocity"
    )
    assert near["verdict"] == "together"
    assert near["tolerance"] == 40  # steps 40 and 80 lie around t0 = 60
    missing = boundary.sel(pair="test_loss_barrier gaussian 0.001 | disagreement_rate gaussian 0.001")
    assert missing["verdict"] == "undecided"
    assert "no transition" in missing["pair_reason"].item()


def test_one_seed_has_no_interval_and_no_transition():
    boundary = boundary_of(chaos_dataset(seeds=1), cone_dataset(seeds=1))
    assert not boundary["found"].any()
    assert (boundary["reason"] == "one seed: no interval").all()
    assert np.isnan(boundary["growth_exponent_lower"]).all()
    assert np.isfinite(boundary["growth_exponent"]).all()
    assert (boundary["chaos_verdict"] == "undecided").all()
    assert (boundary["verdict"] == "undecided").all()


@pytest.mark.parametrize(
    ("chaos", "cone", "curves"),
    [
        (None, cone_dataset(), 1),
        (chaos_dataset(), None, 9),
        (chaos_dataset(growth_steps=0), None, 6),
        (chaos_dataset().isel(t0=slice(0, 2)), cone_dataset().isel(step=slice(0, 3)), 10),
    ],
)
def test_what_was_not_measured_is_left_out_and_every_file_can_be_written_and_drawn(tmp_path, chaos, cone, curves):
    boundary = boundary_of(chaos, cone)
    assert boundary.sizes["curve"] == curves
    write_dataset(tmp_path / "transition.nc", boundary, title="test", recipe="{}")
    read = xr.load_dataset(tmp_path / "transition.nc")
    assert read["reason"].values.tolist() == boundary["reason"].values.tolist()
    with style_context():
        figure = transition.plot_transitions(read, chaos, cone)
        figure.canvas.draw()
        if chaos is not None:
            transition.plot_exponents(read, "gaussian").canvas.draw()


def test_unequal_intervals_make_no_transition():
    """A kernel as far from the next step's whatever lies between: its velocity over the grid's intervals falls."""
    steps = np.array([0, 5, 10, 20, 40, 75, 150, 225, 300, 375, 450, 525, 600])
    cones = {
        seed: cone_of_seed(
            [kernel @ kernel.T for kernel in np.random.default_rng(seed).standard_normal((len(steps), 30, 30))],
            np.arange(30) % 3,
            classes=3,
            steps=steps.tolist(),
            reference_steps=[0],
            intervals=[5, 75],
        )
        for seed in (0, 1, 2)
    }
    boundary = boundary_of(None, cone_of_seeds(cones))
    assert boundary["velocity_interval"] == 75
    assert boundary.sel(curve="kernel_velocity")["found"] == 0


def linear_network(*, image_shape, classes):
    """A linear model: its kernel is constant, and gradient descent on a convex loss brings two runs together."""
    return nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(image_shape)), classes))


def test_a_linear_model_is_neither_chaotic_nor_has_its_kernel_a_transition():
    settings = run_settings(
        model={"name": "test_phase_boundary:linear_network"},
        optimizer={"name": "sgd", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0},
        dtype="float64",
    )
    data = tiny_images(80, 40, dtype=torch.float64)
    t0s, t1s, seeds, norms = [0, 5, 10, 20], [30], [0, 1, 2], [1e-4, 1e-2]

    def at(seed, trajectory, step):
        return run_at(data, settings, seed=seed, trajectory=trajectory, step=step, start=None)[0]

    comparisons, cones = {}, {}
    for seed in seeds:
        for branch in [branch_of("gaussian", norm, 0, t0) for norm in (0.0, *norms) for t0 in t0s]:
            comparisons[seed, branch.name] = compare_branch(
                ((t1, at(seed, "parent", t1), at(seed, branch.name, t1)) for t1 in t1s),
                [at(seed, "parent", branch.t0), at(seed, branch.name, branch.t0)],
                data,
                growth_steps=20,
                interpolation_points=3,
                evaluation_examples=20,
                batch_norm_examples=8,
                progress=lambda *_: None,
            )
        steps = [0, 5, 10, 15, 20, 25]
        kernels = [empirical_ntk(at(seed, "parent", t).network.eval(), data.train_images[:12]).numpy() for t in steps]
        cones[seed] = cone_of_seed(
            kernels, data.train_labels[:12].numpy(), classes=4, steps=steps, reference_steps=[0], intervals=[5]
        )
    grid = {"kinds": ["gaussian"], "relative_norms": norms, "draws": 1}
    chaos = grid_of_comparisons(comparisons, seeds=seeds, perturbation_steps=t0s, comparison_steps=t1s, **grid)
    boundary = boundary_of(chaos, cone_of_seeds(cones))
    assert (boundary["growth_exponent_upper"] <= 0).all()
    assert (boundary["chaos_verdict"] == "contracting").all()
    velocity = cone_of_seeds(cones)["kernel_velocity"].isel(step=slice(0, -1))
    assert abs(velocity).max() < 1e-14
    kernel = boundary.sel(curve="kernel_velocity")
    assert kernel["found"] == 0
    assert kernel["reason"] == "the kernel doesn't move"
    assert not boundary["found"].sel(curve=[f"test_loss_barrier gaussian {norm:g}" for norm in norms]).any()
