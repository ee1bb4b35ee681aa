"""What a trajectory is called and where its checkpoints lie; no numbers are computed here.

A trajectory is one deterministic run of a (study, seed): the ``parent``; a branch that leaves the parent at step t0
with a perturbation; or a linearised run, which leaves it at step s. A segment takes it from one anchor step to the
next.
"""

import re
from dataclasses import dataclass

PARENT = "parent"
# For Snakemake's wildcard constraints: what rules advance, advance_branch and advance_linearized make.
BRANCH_PATTERN = r"control_at\d+|(?:gaussian|gradient)_norm[\d.e+-]+_draw\d+_at\d+"
LINEARIZED_PATTERN = r"linearized_at\d+_rate\d[\d.e+-]*"


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


@dataclass(frozen=True)
class Switch:
    """The parent linearised at step ``switch_step``, and trained on at a base learning rate of its own."""

    switch_step: int
    learning_rate: float

    @property
    def name(self) -> str:
        """The folder's name, for example ``linearized_at200_rate0.1``."""
        return f"linearized_at{self.switch_step}_rate{self.learning_rate!r}"


def parse_trajectory(name: str) -> Branch | Switch | None:
    """Read a trajectory's name; None for the parent.

    Raises:
        ValueError: If the name is no trajectory's.
    """
    if name == PARENT:
        return None
    if control := re.fullmatch(r"control_at(\d+)", name):
        return Branch("control", 0.0, 0, int(control[1]))
    if branch := re.fullmatch(r"(gaussian|gradient)_norm([\d.e+-]+)_draw(\d+)_at(\d+)", name):
        return Branch(branch[1], float(branch[2]), int(branch[3]), int(branch[4]))
    if switch := re.fullmatch(r"linearized_at(\d+)_rate(\d[\d.e+-]*)", name):
        return Switch(int(switch[1]), float(switch[2]))
    raise ValueError(f"{name!r} is not the name of a trajectory")


def departure(trajectory: str) -> int | None:
    """The step at which a trajectory leaves the parent: t0 or s; None for the parent itself."""
    match parse_trajectory(trajectory):
        case Branch(t0=step) | Switch(switch_step=step):
            return step
    return None


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

    A branch or linearised run without an anchor of its own below ``step`` starts from the parent's last anchor at or
    below the step where it leaves it.

    Args:
        trajectory: Name of the trajectory.
        step: Step to reach, above 0; not below the step where the trajectory leaves the parent.
        checkpoint_every: Distance of anchors.

    Returns:
        (trajectory, step) of the checkpoint to start from.
    """
    anchor = (step - 1) // checkpoint_every * checkpoint_every
    left = departure(trajectory)
    if left is None or anchor > left:
        return trajectory, anchor
    return PARENT, left // checkpoint_every * checkpoint_every


def checkpoint_at_or_below(trajectory: str, step: int, checkpoint_every: int) -> tuple[str, int]:
    """The stored checkpoint from which ``step`` is replayed: itself if it is an anchor, else the one below it."""
    left = departure(trajectory)
    if step % checkpoint_every == 0 and (left is None or step > left):
        return trajectory, step
    return start_of_segment(trajectory, step, checkpoint_every)


def anchors_from(step: int, checkpoint_every: int, length: int) -> list[int]:
    """A step, the anchor steps above it, and the end of the run."""
    return [step, *(anchor for anchor in range(0, length, checkpoint_every) if anchor > step), length]
