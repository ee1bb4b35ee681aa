"""Single networks looked at closely: every neuron at start and end, and the function that was learned."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from twophase.phase_diagram.orientations import amplitudes, count_clusters, orientations, principal_direction
from twophase.phase_diagram.relative_distance import AXIS_DESCRIPTIONS
from twophase.storage import describe
from twophase.two_layer import Accuracy, TwoLayer, outputs, train, with_bias

POSITIONS = 201  # of the learned function
MARGIN = 0.25  # of the inputs' range, on both sides
DESCRIPTIONS = AXIS_DESCRIPTIONS | {
    "time": ("when: before training or at its end", "1"),
    "orientation": ("polar angle of (w, b); beyond one dimension the angle to the final principal direction", "rad"),
    "amplitude": ("amplitude |a||w| in normalised weights", "1"),
    "clusters": ("orientations within 5 degrees that hold 95 % of the summed amplitude", "1"),
    "status": ("how it ended: 0 converged, 1 stationary with loss left, 2 evaluations spent, 3 not finite", "1"),
    "position": ("input x", "1"),
    "function": ("output f(x)", "1"),
    "train_input": ("input of each training example", "1"),
    "train_target": ("target of each training example", "1"),
}


def details_of_points(
    points: Sequence[tuple[float, float]],
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    width: int,
    seed: int,
    accuracy: Accuracy,
) -> xr.Dataset:
    """Train one network at each point and describe its neurons.

    Args:
        points: (gamma, gamma') of each.
        inputs: ``(n, d)``, the constant 1 last.
        targets: ``(n,)``.
        width: Hidden neurons.
        seed: Of the initial weights.
        accuracy: Of the integration.

    Returns:
        Over (point, time, neuron) orientation and amplitude; over (point, time) clusters; for one-dimensional inputs
        also the function over (point, time, position), and the training examples.
    """
    positions = _positions(inputs)
    runs = [_neurons(TwoLayer(*point, width, seed), inputs, targets, accuracy, positions) for point in points]
    dims = {"orientation": ("time", "neuron"), "amplitude": ("time", "neuron"), "clusters": ("time",), "status": ()}
    if positions is not None:
        dims["function"] = ("time", "position")
    variables = {name: (("point", *inner), np.array([run[name] for run in runs])) for name, inner in dims.items()}
    variables |= {"width": width, "seed": seed}
    coordinates = {
        "gamma": ("point", [gamma for gamma, _ in points]),
        "gamma_prime": ("point", [gamma_prime for _, gamma_prime in points]),
        "time": ["start", "end"],
    }
    if positions is not None:
        variables |= {"train_input": ("example", inputs[:, 0]), "train_target": ("example", targets)}
        coordinates["position"] = positions
    return describe(xr.Dataset(variables, coords=coordinates), DESCRIPTIONS)


def _positions(inputs: np.ndarray) -> np.ndarray | None:
    """Where the function is shown; None where inputs have more than one dimension."""
    if inputs.shape[1] != 2:
        return None
    low, high = inputs[:, 0].min(), inputs[:, 0].max()
    margin = MARGIN * (high - low) or 1.0
    return np.linspace(low - margin, high + margin, POSITIONS)


def _neurons(
    network: TwoLayer, inputs: np.ndarray, targets: np.ndarray, accuracy: Accuracy, positions: np.ndarray | None
) -> dict:
    """One network's neurons at start and end."""
    trained, final = train(network, inputs, targets, accuracy)
    both = (network.initial_weights(inputs.shape[1]), final)
    reference = None if inputs.shape[1] == 2 else principal_direction(final)
    described = {
        "orientation": [orientations(weights, reference) for weights in both],
        "amplitude": [amplitudes(weights) for weights in both],
        "clusters": [count_clusters(weights) for weights in both],
        "status": np.int8(trained.status_number),
    }
    if positions is not None:
        described["function"] = [outputs(weights, with_bias(positions), network.kappa) for weights in both]
    return described
