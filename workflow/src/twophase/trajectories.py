"""What a trajectory is called and where its checkpoints lie; no numbers are computed here.

A trajectory is one deterministic run of a (study, seed): the ``parent``, or a branch that leaves the parent at step t0
with a perturbation. A segment takes it from one anchor step to the next.
"""

import re
from dataclasses import dataclass

PARENT = "parent"
# For Snakemake's wildcard constraints.
TRAJECTORY_PATTERN = r"parent|control_at\d+|(?:gaussian|gradient)_norm[\d.e+-]+_draw\d+_at\d+"


@dataclass(frozen=True)
class Branch:
    """A perturbation of the parent at step ``t0``.

    A relative norm of 0 is the control: it has neither direction nor draw, so ``kind`` is "control" and ``draw`` 0.
    """

    kind: str
    relative_norm: float
    draw: int
    t0: int

    @property
    def name(self) -> str:
        """The folder's name, for example ``gaussian_norm0.01_draw0_at250`` or ``control_at250``."""
        if self.kind == "control":
            return f"control_at{self.t0}"
        return f"{self.kind}_norm{self.relative_norm!r}_draw{self.draw}_at{self.t0}"


def branch_of(kind: str, relative_norm: float, draw: int, t0: int) -> Branch:
    """The branch of one cell of the grid (kind, relative norm, draw, t0); all cells of norm 0 share the control."""
    if relative_norm == 0:
        return Branch("control", 0.0, 0, t0)
    return Branch(kind, float(relative_norm), draw, t0)


def parse_trajectory(name: str) -> Branch | None:
    """Read a trajectory's name; None for the parent.

    Raises:
        ValueError: If the name is neither the parent's nor a branch's.
    """
    if name == PARENT:
        return None
    if control := re.fullmatch(r"control_at(\d+)", name):
        return Branch("control", 0.0, 0, int(control[1]))
    if branch := re.fullmatch(r"(gaussian|gradient)_norm([\d.e+-]+)_draw(\d+)_at(\d+)", name):
        return Branch(branch[1], float(branch[2]), int(branch[3]), int(branch[4]))
    raise ValueError(f"{name!r} is not the name of a trajectory")


def grid_of_branches(
    perturbation_steps: list[int], kinds: list[str], relative_norms: list[float], draws: int
) -> list[Branch]:
    """Every branch of a chaos grid once, the control of each t0 first."""
    cells = [
        branch_of(kind, norm, draw, t0)
        for t0 in perturbation_steps
        for norm in sorted({0.0, *relative_norms})
        for kind in kinds
        for draw in range(draws)
    ]
    return list(dict.fromkeys(cells))


def start_of_segment(trajectory: str, step: int, checkpoint_every: int) -> tuple[str, int]:
    """The checkpoint from which ``step`` of a trajectory is reached: the last anchor below it.

    A branch without an anchor of its own below ``step`` starts from the parent's last anchor at or below t0.

    Args:
        trajectory: Name of the trajectory.
        step: Step to reach, above 0; of a branch, at or above its t0.
        checkpoint_every: Distance of anchors.

    Returns:
        (trajectory, step) of the checkpoint to start from.
    """
    anchor = (step - 1) // checkpoint_every * checkpoint_every
    branch = parse_trajectory(trajectory)
    if branch is None or anchor > branch.t0:
        return trajectory, anchor
    return PARENT, branch.t0 // checkpoint_every * checkpoint_every


def checkpoint_at_or_below(trajectory: str, step: int, checkpoint_every: int) -> tuple[str, int]:
    """The stored checkpoint from which ``step`` is replayed: itself if it is an anchor, else the one below it."""
    branch = parse_trajectory(trajectory)
    if step % checkpoint_every == 0 and (branch is None or step > branch.t0):
        return trajectory, step
    return start_of_segment(trajectory, step, checkpoint_every)
