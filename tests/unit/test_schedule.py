import pytest
import torch

from twophase.config import Study
from twophase.schedule import learning_rate_at


def _rates(schedule, steps, base=0.1):
    return [learning_rate_at(step, base, schedule) for step in range(steps)]


def _torch_rates(scheduler_class, steps, base=0.1, **arguments):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler = scheduler_class(optimizer, **arguments)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_constant():
    assert _rates({"name": "constant", "warmup": 0}, 3) == [0.1, 0.1, 0.1]


def test_warmup_rises_linearly_and_reaches_the_base_at_its_last_step():
    assert _rates({"name": "constant", "warmup": 4}, 6, base=1.0) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_milestones_apply_from_their_own_update_on():
    schedule = {"name": "milestones", "warmup": 0, "milestones": [2, 4], "factor": 0.5}
    assert _rates(schedule, 6, base=1.0) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_milestones_equal_torch():
    schedule = {"name": "milestones", "warmup": 0, "milestones": [3, 7, 8], "factor": 0.1}
    expected = _torch_rates(torch.optim.lr_scheduler.MultiStepLR, 12, milestones=[3, 7, 8], gamma=0.1)
    assert _rates(schedule, 12) == pytest.approx(expected, rel=1e-12)


def test_cosine_equals_torch_and_stays_at_zero():
    expected = _torch_rates(torch.optim.lr_scheduler.CosineAnnealingLR, 20, T_max=20)
    rates = _rates({"name": "cosine", "warmup": 0, "length": 20}, 25)
    assert rates[:20] == pytest.approx(expected, rel=1e-12)
    assert rates[20:] == [0.0] * 5


def test_cosine_starts_where_the_warmup_ends():
    rates = _rates({"name": "cosine", "warmup": 4, "length": 12}, 12, base=1.0)
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[8] == pytest.approx(0.5, rel=1e-12)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_cosine_shorter_than_its_warmup_is_zero_from_its_length_on():
    assert _rates({"name": "cosine", "warmup": 4, "length": 2}, 5, base=1.0) == [0.25, 0.5, 0.0, 0.0, 0.0]


def test_it_reads_the_config_of_the_paper():
    study = Study.model_validate(
        {
            "data": {"source": "cifar10"},
            "schedule": {"name": "milestones", "milestones": ["80 epochs", "120 epochs"]},
            "training": {"length": "160 epochs", "batch_size": 125},
        }
    )
    rates = [learning_rate_at(step, 0.1, study.schedule_in_steps()) for step in (0, 31_999, 32_000, 47_999, 48_000)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001], rel=1e-12)


def test_what_it_refuses():
    with pytest.raises(ValueError, match="step must be at least 0, got -1"):
        learning_rate_at(-1, 0.1, {"name": "constant", "warmup": 0})
    with pytest.raises(ValueError, match="constant, milestones or cosine, got 'linear'"):
        learning_rate_at(0, 0.1, {"name": "linear", "warmup": 0})
