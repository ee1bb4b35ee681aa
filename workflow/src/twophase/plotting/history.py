"""Training curves of the parents: loss, accuracy, learning rate."""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twophase.plotting.axes import set_logarithmic
from twophase.plotting.style import OKABE_ITO, add_note, marked_line, new_figure
from twophase.plotting.summary import deviation_note, sample_note, seed_mean, seed_spread

MOST_POINTS = 1500


def plot_history(history: xr.Dataset) -> Figure:
    """Training and test loss, test accuracy and learning rate along the parents.

    Args:
        history: ``training_loss(seed, update)``, ``learning_rate(update)``, ``test_accuracy(seed, step)`` and
            ``test_loss(seed, step)``.

    Returns:
        A figure of three panels above each other.
    """
    figure = new_figure(6.5, 6.5)
    loss, accuracy, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.3))
    block, window = _draw_loss(loss, history)
    _draw_accuracy(accuracy, history)
    rate.plot(history["update"], history["learning_rate"], color="black", drawstyle="steps-post", linewidth=1)
    rate.set(xlabel="training step (optimiser updates)", ylabel="learning rate")
    rate.set_ylim(0, 1.1 * max(float(history["learning_rate"].max()), 1e-12))
    figure.align_ylabels()
    add_note(
        figure,
        sample_note(history),
        f"faint lines: single seeds, the loss averaged over {block} updates" if block > 1 else "faint: single seeds",
        f"training loss: moving mean over {window} updates of the mean over seeds",
        deviation_note(history, "bands"),
    )
    return figure


def _draw_loss(axes: Axes, history: xr.Dataset) -> tuple[int, int]:
    """Draw the losses; return the updates in a point of a faint line and in the moving mean."""
    updates = history["update"].values
    losses = history["training_loss"].transpose("seed", "update").values
    block = max(1, -(-len(updates) // MOST_POINTS))
    window = max(1, len(updates) // 50)
    for seed_losses in losses:
        axes.plot(block_mean(updates, block), block_mean(seed_losses, block), color="0.8", linewidth=0.5)
    smooth = moving_mean(losses.mean(axis=0), window)
    axes.plot(updates[::block], smooth[::block], color=OKABE_ITO[0], linewidth=1.2, label="training loss")
    test = seed_mean(history["test_loss"])
    spread = seed_spread(history["test_loss"])
    axes.plot(history["step"], test, **marked_line(1, test.size), label="test loss")
    if spread is not None:
        axes.fill_between(history["step"], test - spread, test + spread, color=OKABE_ITO[1], alpha=0.2, linewidth=0)
    set_logarithmic(axes, plain=True)
    axes.set_ylabel("loss (cross-entropy, nats)")
    axes.legend(loc="upper right")
    return block, window


def _draw_accuracy(axes: Axes, history: xr.Dataset) -> None:
    mean, spread = seed_mean(history["test_accuracy"]), seed_spread(history["test_accuracy"])
    for accuracies in history["test_accuracy"].transpose("seed", "step"):
        axes.plot(history["step"], accuracies, color="0.8", linewidth=0.7)
    axes.plot(history["step"], mean, **marked_line(1, mean.size))
    if spread is not None:
        axes.fill_between(history["step"], mean - spread, mean + spread, color=OKABE_ITO[1], alpha=0.2, linewidth=0)
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0, 1)


def block_mean(values: np.ndarray, block: int) -> np.ndarray:
    """Means of ``block`` neighbours each, shape ``(ceil(n / block),)``; the last block may be shorter."""
    starts = np.arange(0, len(values), block)
    return np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))


def moving_mean(values: np.ndarray, window: int) -> np.ndarray:
    """Mean over a centred window, shape of ``values``; the window is cut off at the ends."""
    kernel = np.ones(min(window, len(values)))
    counts = np.convolve(np.ones(len(values)), kernel, mode="same")
    return np.convolve(values, kernel, mode="same") / counts
