"""Any step of any trajectory, from a checkpoint at or below it: the same bits, whether trained, resumed or replayed."""

from collections.abc import Callable

from torch import Tensor

from twophase.checkpoint import Checkpoint, restore
from twophase.data import ImageData
from twophase.perturbation import perturb
from twophase.training import TrainingRun
from twophase.trajectories import PARENT, Switch, parse_trajectory


def run_at(
    data: ImageData,
    settings: dict,
    *,
    seed: int,
    trajectory: str,
    step: int,
    start: Checkpoint | None,
    progress: Callable[[int], None] | None = None,
) -> tuple[TrainingRun, Tensor]:
    """Bring a trajectory to a step.

    Args:
        data: Images on the device of the run.
        settings: Settings of the run.
        seed: Seed of the run.
        trajectory: Name of the trajectory.
        step: Step to reach.
        start: Checkpoint at or below ``step``: of the trajectory, or for a branch of the parent at or below t0, where
            the branch is then made. None starts a parent from its initialisation.
        progress: Called with the number of steps done.

    Returns:
        The run at ``step``, and the training losses of the updates made on the trajectory, float64.

    Raises:
        ValueError: If ``start`` is of another trajectory or seed, or lies above ``step``; if a branch's ``step`` lies
            below its t0.
    """
    branch = parse_trajectory(trajectory)
    if isinstance(branch, Switch):
        raise ValueError(f"{trajectory} is no parent or branch; linearized_run_at replays it")
    if branch is not None and step < branch.t0:
        raise ValueError(f"{trajectory} has no step {step}: it begins at step {branch.t0}")
    run = TrainingRun(data, settings, seed)
    if start is not None:
        if start.trajectory not in (trajectory, PARENT) or start.step > step:
            raise ValueError(f"step {step} of {trajectory} can't start from step {start.step} of {start.trajectory}")
        if start.seed != seed:
            raise ValueError(f"a run of seed {seed} can't start from a checkpoint of seed {start.seed}")
        restore(run, start)
    first = run.step
    report = (lambda reached: progress(reached - first)) if progress else None
    if branch is not None and (start is None or start.trajectory == PARENT):
        run.advance(branch.t0, progress=report)
        perturb(run, branch)
    return run, run.advance(step, progress=report)
