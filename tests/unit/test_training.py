import copy
import dataclasses
import math
import random
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import ADAMW, DROPOUT, PARTLY_FROZEN, bits, run_settings, state_of, tiny_images
from torch.nn import functional as F

from twophase.batches import Batches
from twophase.config import SGD, AdamW
from twophase.errors import DivergenceError, ModelError
from twophase.models import build_model
from twophase.optimizers import build_optimizer, update_parameters
from twophase.randomness import Source, torch_seed
from twophase.training import STEPS_BETWEEN_CHECKS, TrainingRun, trainable_parameters

# Powers of two, so that it doesn't matter in which order the factors of a learning rate are multiplied.
RATE = 0.125
SCHEDULES = {
    "constant": ({"name": "constant"}, lambda step: RATE),
    "warmup": ({"name": "constant", "warmup": 4}, lambda step: RATE * min(step + 1, 4) / 4),
    "milestones": (
        {"name": "milestones", "milestones": [3, 7], "factor": 0.5},
        lambda step: RATE * (1.0 if step < 3 else 0.5 if step < 7 else 0.25),
    ),
    "cosine": (
        {"name": "cosine", "length": 10},
        lambda step: RATE * (1 + math.cos(math.pi * step / 10)) / 2 if step < 10 else 0.0,
    ),
}
OPTIMIZERS = {
    "sgd": ({"name": "sgd", "momentum": 0.0, "weight_decay": 0.0}, torch.optim.SGD, {}),
    "momentum": (
        {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0},
        torch.optim.SGD,
        {"momentum": 0.9},
    ),
    "nesterov": (
        {"name": "sgd", "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "adamw": (
        {"name": "adamw", "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1},
        torch.optim.AdamW,
        {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
}


def _plain_training(data, settings, seed, steps, optimizer_class, arguments, rate_of):
    """Initialise and train in a plain loop; returns network, optimiser and losses."""
    torch.manual_seed(torch_seed(seed, Source.INITIALISATION))
    network = build_model(settings["model"], image_shape=data.image_shape, classes=data.classes)
    network = network.to(data.train_images.dtype).to(memory_format=torch.channels_last)
    optimizer = optimizer_class(network.parameters(), lr=RATE, **arguments)
    batches = Batches(data, seed, batch_size=8, crop_padding=1, horizontal_flip=True)
    losses = []
    for step in range(steps):
        images, labels = batches(step)
        for group in optimizer.param_groups:
            group["lr"] = rate_of(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return network, optimizer, losses


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_equals_a_plain_loop_bit_for_bit(optimizer, schedule):
    _check_against_plain_loop(optimizer, schedule, torch.float32)


def test_it_equals_a_plain_loop_in_float64():
    run = _check_against_plain_loop("momentum", "constant", torch.float64)
    assert {parameter.dtype for parameter in trainable_parameters(run.network)} == {torch.float64}


def _check_against_plain_loop(optimizer, schedule, dtype):
    data = tiny_images(dtype=dtype)
    optimizer_settings, optimizer_class, arguments = OPTIMIZERS[optimizer]
    schedule_settings, rate_of = SCHEDULES[schedule]
    settings = run_settings(
        optimizer=optimizer_settings | {"learning_rate": RATE}, schedule=schedule_settings, dtype=str(dtype)[6:]
    )
    with torch.random.fork_rng():
        plain = _plain_training(data, settings, 5, 12, optimizer_class, arguments, rate_of)
    run = TrainingRun(data, settings, seed=5)
    losses = run.advance(12)
    assert losses.dtype == torch.float64
    assert losses.tolist() == plain[2]
    assert len(set(plain[2])) == 12
    assert bits(run.network.state_dict()) == bits(plain[0].state_dict())
    assert bits(run.optimizer.state_dict()["state"]) == bits(plain[1].state_dict()["state"])
    return run


@pytest.mark.parametrize("optimizer", [None, ADAMW])
@pytest.mark.parametrize("model", [None, DROPOUT])
def test_going_in_parts_is_going_at_once(model, optimizer):
    data, settings = tiny_images(), run_settings(model=model, optimizer=optimizer)
    at_once, in_parts = (TrainingRun(data, settings, seed=1) for _ in range(2))
    losses = at_once.advance(70)
    parts = [in_parts.advance(4)]
    torch.manual_seed(12345)
    parts += [in_parts.advance(10), in_parts.advance(10), in_parts.advance(70)]
    assert torch.equal(torch.cat(parts), losses)
    assert [len(part) for part in parts] == [4, 6, 0, 60]
    assert state_of(in_parts) == state_of(at_once)


def test_steps_count_updates_from_zero():
    run = TrainingRun(tiny_images(), run_settings(), seed=0)
    assert run.step == 0
    run.advance(3)
    assert run.step == 3
    assert {int(buffer) for name, buffer in run.network.named_buffers() if "num_batches" in name} == {3}


def test_dropout_repeats_whatever_the_global_generator_and_changes_with_step_and_seed():
    def masks(seed, global_seed):
        run = TrainingRun(tiny_images(), run_settings(model=DROPOUT), seed)
        drawn = []
        dropout = next(layer for layer in run.network if isinstance(layer, torch.nn.Dropout))
        dropout.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))
        dropout.register_forward_hook(lambda *arguments: drawn.append(tuple(arguments[-1].flatten().tolist())))
        torch.manual_seed(global_seed)
        run.advance(6)
        return drawn

    with torch.random.fork_rng():
        first, again, other = masks(0, 1), masks(0, 2), masks(1, 1)
    assert first == again
    assert len(set(first + other)) == 12
    assert set(first[0]) == {0.0, 2.0}


@pytest.mark.parametrize("model", [None, DROPOUT])
def test_the_global_generators_are_left_as_found(model):
    def states():
        legacy = np.random.get_state()  # noqa: NPY002
        return random.getstate(), legacy[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    run = TrainingRun(tiny_images(), run_settings(model=model), seed=0)
    assert states() == before
    run.advance(3)
    assert states() == before


def test_the_initialisation_has_a_seed_of_its_own():
    def weights(seed, **changes):
        return bits(TrainingRun(tiny_images(), run_settings(**changes), seed).network.state_dict())

    first = weights(0)
    assert weights(0, batch_size=5, crop_padding=0, horizontal_flip=False, optimizer=ADAMW) == first
    assert weights(1) != first


def _make_diverge(data, batch_size, wanted, seed):
    """Make an image infinite; returns the update that meets it first, which lies at or just after ``wanted``."""
    numbers = dataclasses.replace(data, train_labels=torch.arange(len(data.train_labels)))
    batches = Batches(numbers, seed, batch_size=batch_size)
    first = {step: int(batches(step)[1][0]) for step in range(wanted, wanted + 3)}
    step = next(step for step, number in first.items() if number > 1)  # images 0 and 1 check the network
    data.train_images[first[step]] = math.inf
    return step


@pytest.mark.parametrize("wanted", [0, 17, 49, 50, 67])
@pytest.mark.parametrize("parts", [[100], [13, 60, 100]])
def test_a_divergence_names_its_step(wanted, parts):
    data = tiny_images(200)
    step = _make_diverge(data, 2, wanted, seed=3)
    settings = run_settings(batch_size=2, crop_padding=0, horizontal_flip=False)
    run = TrainingRun(data, settings, seed=3)
    told = []

    def advance_in_parts():
        for until in parts:
            run.advance(until, progress=told.append)

    with pytest.raises(DivergenceError, match=rf"became nan at step {step} \(seed 3, learning rate 0\.1\)"):
        advance_in_parts()
    assert all(reached <= step for reached in told)


def test_a_divergence_tells_the_rate_of_its_step():
    settings = run_settings(schedule={"name": "milestones", "milestones": [5], "factor": 1e30}, batch_size=4)
    run = TrainingRun(tiny_images(), settings, seed=0)
    run.advance(5)
    with pytest.raises(DivergenceError, match=r"became (nan|inf) at step ([6-9]|1\d) \(seed 0, learning rate 1e\+29\)"):
        run.advance(30)


def test_progress_is_told_at_every_check():
    run = TrainingRun(tiny_images(), run_settings(), seed=0)
    told = []
    run.advance(30, progress=told.append)
    run.advance(30 + STEPS_BETWEEN_CHECKS + 5, progress=told.append)
    assert told == [30, 30 + STEPS_BETWEEN_CHECKS, 30 + STEPS_BETWEEN_CHECKS + 5]


def test_a_network_that_does_not_fit_is_refused():
    with pytest.raises(ModelError, match="depth of a resnet"):
        TrainingRun(tiny_images(), run_settings(model={"name": "resnet", "depth": 9}), seed=0)


def test_frozen_parameters_stay_and_do_not_count():
    run = TrainingRun(tiny_images(), run_settings(model=PARTLY_FROZEN), seed=0)
    frozen = bits(run.network.frozen.state_dict())
    run.advance(3)
    assert bits(run.network.frozen.state_dict()) == frozen
    expected = [run.network.unused, *run.network.norm.parameters(), *run.network.output.parameters()]
    theta = trainable_parameters(run.network)
    assert [part.data_ptr() for part in theta] == [part.data_ptr() for part in expected]
    assert not any(part.requires_grad for part in theta)


@pytest.mark.parametrize("settings", [SGD(nesterov=True, weight_decay=0.01), AdamW(name="adamw")])
def test_update_parameters_is_the_optimizers_step(settings):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(3, 4, generator=generator, requires_grad=True), torch.randn(2, requires_grad=True)]
    theirs = copy.deepcopy(ours)
    optimizers = [build_optimizer(settings.model_dump(), parameters) for parameters in (ours, theirs)]
    for _ in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        update_parameters(optimizers[0])
        optimizers[1].step()
    assert bits(ours) == bits(theirs)
    assert bits(optimizers[0].state_dict()) == bits(optimizers[1].state_dict())


def test_a_job_does_not_import_the_compiler():
    code = """
        import sys
        import tiny
        from twophase.branch_comparison import compare_branch
        from twophase.checkpoint import checkpoint_of, restore
        from twophase.perturbation import perturb
        from twophase.training import TrainingRun
        from twophase.trajectories import branch_of
        for optimizer in (None, tiny.ADAMW):
            run = TrainingRun(tiny.tiny_images(), tiny.run_settings(optimizer=optimizer), 0)
            losses = run.advance(2)
            restore(run, checkpoint_of(run, trajectory="parent", recipe="", losses=losses, environment={}))
            perturb(run, branch_of("gradient", 0.1, 0, 2))
            run.advance(4)
        print("torch._dynamo" in sys.modules)
    """
    process = [sys.executable, "-c", textwrap.dedent(code)]
    output = subprocess.run(process, check=True, capture_output=True, text=True, cwd=Path(__file__).parent)
    assert output.stdout.strip() == "False"
