"""Linearised runs: the parent up to the switch, then the network linearised there, on the same batches."""

from collections.abc import Callable

from torch import Tensor

from twophase.checkpoint import Checkpoint, restore
from twophase.data import ImageData
from twophase.linearization import linearize
from twophase.models import ScaledNetwork, core_of
from twophase.optimizers import build_optimizer
from twophase.replay import run_at
from twophase.training import TrainingRun
from twophase.trajectories import PARENT, Switch


def linearized_run_at(
    data: ImageData,
    settings: dict,
    switching: dict,
    *,
    seed: int,
    switch: Switch,
    step: int,
    start: Checkpoint | None,
    progress: Callable[[int], None] | None = None,
) -> tuple[TrainingRun, Tensor]:
    """Bring a linearised run to a step.

    Args:
        data: Images on the device of the run.
        settings: Settings of the parent.
        switching: As `twophase.config.Study.linearized_settings` gives them: ``optimizer_state`` and ``schedule``.
        seed: Seed of the run.
        switch: Where the parent is linearised, and the base learning rate from there on.
        step: Step to reach, at or above the switch.
        start: Checkpoint of the linearised run at or below ``step``, or of the parent at or below the switch; None
            starts from the parent's initialisation.
        progress: Called with the number of steps done.

    Returns:
        The run at ``step``, and the training losses of the updates made by the linearised network, float64; NaN after
        a divergence.

    Raises:
        ValueError: If ``start`` is of another trajectory or seed, or lies above ``step``, or ``step`` below the switch.
    """
    if step < switch.switch_step:
        raise ValueError(f"{switch.name} has no step {step}: it begins at step {switch.switch_step}")
    if start is None or start.trajectory == PARENT:
        run, _ = run_at(
            data, settings, seed=seed, trajectory=PARENT, step=switch.switch_step, start=start, progress=progress
        )
        _linearize(run, settings, switching, switch)
    else:
        if start.trajectory != switch.name or start.seed != seed or start.step > step:
            found = f"step {start.step} of {start.trajectory}, seed {start.seed}"
            raise ValueError(f"step {step} of {switch.name}, seed {seed}, can't start from {found}")
        run = TrainingRun(data, settings, seed)
        _linearize(run, settings, switching, switch)
        restore(run, start)
    begun = 0 if start is None else start.step
    return run, run.advance(step, progress=(lambda reached: progress(reached - begun)) if progress else None)


def _linearize(run: TrainingRun, settings: dict, switching: dict, switch: Switch) -> None:
    """Go on with the network linearised where it is; weight decay still acts on theta, not on the offset from it."""
    core, _ = core_of(run.network.eval())
    linear = linearize(core)
    network = run.network.around(linear) if isinstance(run.network, ScaledNetwork) else linear
    optimizer = build_optimizer(settings["optimizer"], linear.offset)
    if switching["optimizer_state"] == "carried":
        optimizer.load_state_dict(run.optimizer.state_dict())
    run.continue_with(
        network,
        optimizer,
        learning_rate=switch.learning_rate,
        schedule=switching["schedule"],
        origin=linear.expansion_point,
    )
    run.may_diverge = True
