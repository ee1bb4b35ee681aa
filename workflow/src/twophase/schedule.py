"""The learning rate as a pure function of the step, so that a resumed or replayed run needs no scheduler's state."""

import math
from typing import Any


def learning_rate_at(step: int, base: float, schedule: dict[str, Any]) -> float:
    r"""Learning rate of update ``step``, which takes theta_step to theta_{step+1}: ``base * warm(step) * decay(step)``.

    With ``w`` the warm-up in steps, ``warm(step) = (step + 1) / w`` for ``step < w`` and 1 from ``w`` on. ``decay`` is

    - constant: 1;
    - milestones: ``factor ** (number of milestones m with m <= step)``;
    - cosine: ``(1 + cos(pi (step - w) / (length - w))) / 2`` for ``w <= step < length``, 1 before, 0 from ``length``
      on, even where the warm-up is longer.

    Args:
        step: Number of the update, from 0.
        base: Learning rate before warm-up and schedule.
        schedule: ``config.Study.schedule_in_steps()``: ``name`` (constant, milestones or cosine) and ``warmup``;
            ``milestones`` and ``factor``; or ``length``; all in steps.

    Returns:
        The learning rate.

    Raises:
        ValueError: If the step is negative or the schedule's name unknown.
    """
    if step < 0:
        raise ValueError(f"step must be at least 0, got {step}")
    warmup = schedule["warmup"]
    warm = (step + 1) / warmup if step < warmup else 1.0
    match schedule["name"]:
        case "constant":
            return base * warm
        case "milestones":
            passed = sum(milestone <= step for milestone in schedule["milestones"])
            return base * warm * schedule["factor"] ** passed
        case "cosine":
            return base * warm * _half_cosine(step, warmup, schedule["length"])
    raise ValueError(f"schedule must be constant, milestones or cosine, got {schedule['name']!r}")


def _half_cosine(step: int, start: int, end: int) -> float:
    if step >= end:
        return 0.0
    if step < start:
        return 1.0
    return (1 + math.cos(math.pi * (step - start) / (end - start))) / 2
