import dataclasses
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from tiny import ADAMW, bits, run_settings, state_of, tiny_images

from twophase import checkpoint as checkpoint_module
from twophase.checkpoint import Checkpoint, checkpoint_of, load_checkpoint, restore, save_checkpoint
from twophase.errors import ArtifactError, DiskError
from twophase.provenance import canonical, make_recipe
from twophase.training import TrainingRun

RECIPE = make_recipe("advance", {"batch_size": 8, "dtype": "float32"}, "0123", data={"rule": "prepare_data"})


def _trained(steps, **settings):
    run = TrainingRun(tiny_images(), run_settings(**settings), seed=0)
    return run, run.advance(steps)


def _save(folder, run, losses, trajectory="parent"):
    path = folder / f"seed{run.seed}" / trajectory / f"step{run.step}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    environment = {"device": "cpu (some)", "threads": "1"}
    recipe = canonical(RECIPE)
    saved = checkpoint_of(run, trajectory=trajectory, recipe=recipe, losses=losses, environment=environment)
    save_checkpoint(path, saved)
    return path, saved


@pytest.fixture
def saved(tmp_path):
    return _save(tmp_path, *_trained(3))[0]


@pytest.mark.parametrize("optimizer", [None, ADAMW])
def test_a_round_trip_keeps_every_bit(tmp_path, optimizer):
    run, losses = _trained(3, optimizer=optimizer)
    path, saved = _save(tmp_path, run, losses)
    loaded = load_checkpoint(path, recipe=RECIPE, seed=0)
    assert bits(dataclasses.asdict(loaded)) == bits(dataclasses.asdict(saved))
    assert (loaded.step, loaded.seed, loaded.trajectory) == (3, 0, "parent")
    assert loaded.losses.tolist() == losses.tolist()
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= set(loaded.network)
    kept = {"momentum_buffer"} if optimizer is None else {"step", "exp_avg", "exp_avg_sq"}
    assert all(set(state) == kept for state in loaded.optimizer["state"].values())
    assert len(loaded.optimizer["state"]) == len(list(run.network.parameters()))


@pytest.mark.parametrize("normalization", ["batch", "group"])
@pytest.mark.parametrize("optimizer", [None, {"name": "sgd", "momentum": 0.0}, ADAMW])
def test_to_stop_and_resume_is_to_go_on(tmp_path, optimizer, normalization):
    settings = {
        "optimizer": optimizer,
        "model": {"name": "cnn", "depth": 1, "width": 4, "normalization": normalization},
        "schedule": {"name": "cosine", "length": 20, "warmup": 2},
    }
    uninterrupted, losses = _trained(12, **settings)
    path, _ = _save(tmp_path, *_trained(5, **settings))
    resumed = TrainingRun(tiny_images(), run_settings(**settings), seed=0)
    restore(resumed, load_checkpoint(path, recipe=RECIPE, seed=0))
    assert state_of(resumed) == state_of(_trained(5, **settings)[0])
    assert torch.equal(resumed.advance(12), losses[5:])
    assert state_of(resumed) == state_of(uninterrupted)


@pytest.mark.parametrize("optimizer", [None, ADAMW])
def test_a_restored_run_leaves_the_checkpoint_as_it_is(optimizer):
    run, losses = _trained(3, optimizer=optimizer)
    checkpoint = checkpoint_of(run, trajectory="parent", recipe="", losses=losses, environment={})
    before = bits(dataclasses.asdict(checkpoint))
    other = TrainingRun(tiny_images(), run_settings(optimizer=optimizer), seed=0)
    restore(other, checkpoint)
    other.advance(6)
    assert bits(dataclasses.asdict(checkpoint)) == before


def test_step_0_has_a_checkpoint_too(tmp_path):
    path, _ = _save(tmp_path, *_trained(0))
    run = TrainingRun(tiny_images(seed=1), run_settings(), seed=0)
    restore(run, load_checkpoint(path, recipe=RECIPE, seed=0))
    assert state_of(run) == state_of(_trained(0)[0])


def _refusal(path, recipe=RECIPE, seed=0):
    with pytest.raises(ArtifactError) as caught:
        load_checkpoint(path, recipe=recipe, seed=seed)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("length", [0, 1, 30, 0.1, 0.5, 0.9, -100, -1])
def test_a_truncated_file_is_refused(saved, length):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(length * len(content)) if isinstance(length, float) else length])
    assert "truncated, damaged or not a checkpoint" in _refusal(saved)


def test_a_changed_byte_in_a_tensor_is_noticed(saved):
    weights = load_checkpoint(saved, recipe=RECIPE, seed=0).network["0.weight"]
    stored = weights.permute(0, 2, 3, 1).numpy().tobytes()  # saved as it lies in memory, channels last
    content = bytearray(saved.read_bytes())
    content[content.index(stored) + 5] ^= 1
    saved.write_bytes(content)
    assert "checksum" in _refusal(saved)


@pytest.mark.parametrize("content", [b"step 3\n", b"\x00" * 5000, b"PK\x03\x04 not really"])
def test_another_file_is_refused(saved, content):
    saved.write_bytes(content)
    assert "not a checkpoint" in _refusal(saved)


@pytest.mark.parametrize("value", [torch.zeros(3), {"network": {}}, [1, 2]])
def test_tensors_that_are_no_checkpoint_are_refused(saved, value):
    torch.save(value, saved)
    assert "not a checkpoint" in _refusal(saved)


class _Harmful:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_executed(saved, tmp_path, zipped):
    harmful = {"recipe": canonical(RECIPE), "network": _Harmful(tmp_path / "executed")}
    if zipped:
        torch.save(harmful, saved)
    else:
        saved.write_bytes(pickle.dumps(harmful))
    assert "not a checkpoint" in _refusal(saved)
    assert not (tmp_path / "executed").exists()
    if not zipped:  # the file does what it says
        pickle.loads(saved.read_bytes())
        assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("name", "seed", "different"),
    [
        ("seed0/parent/step4.pt", 0, "step4"),
        ("seed1/parent/step3.pt", 1, "(1, "),
        ("seed0/control_at3/step3.pt", 0, "control_at3"),
    ],
)
def test_a_file_in_another_place_is_refused(saved, tmp_path, name, seed, different):
    moved = tmp_path / name
    moved.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(saved, moved)
    message = _refusal(moved, seed=seed)
    assert "holds (seed, trajectory, step) (0, 'parent', 'step3'), expected" in message
    assert different in message.split("expected")[1]


def test_a_file_of_another_recipe_is_refused(saved):
    other = make_recipe("advance", {"batch_size": 16, "dtype": "float32"}, "0123", data={"rule": "prepare_data"})
    message = _refusal(saved, recipe=other)
    assert "settings.batch_size: file has 8, expected 16" in message
    assert "dtype" not in message
    assert "code: file has '0123', expected '4567'" in _refusal(saved, recipe=RECIPE | {"code": "4567"})


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "seed0" / "parent" / "step3.pt", recipe=RECIPE, seed=0)


@pytest.mark.parametrize(
    ("error", "seen"), [(OSError("No space left on device"), DiskError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_failing_save_leaves_the_old_file_and_nothing_else(saved, monkeypatch, error, seen):
    def write_a_part(value, file):
        file.write(b"PK\x03\x04")
        raise error

    monkeypatch.setattr(checkpoint_module.torch, "save", write_a_part)
    before = saved.read_bytes()
    run, losses = _trained(3)
    with pytest.raises(seen):
        _save(saved.parents[2], run, losses)
    assert list(saved.parent.iterdir()) == [saved]
    assert saved.read_bytes() == before


def test_the_same_run_gives_the_same_bytes_whatever_its_temporary_file_is_called(saved, monkeypatch):
    before = saved.read_bytes()
    monkeypatch.setattr("os.getpid", lambda: 12345678)
    run, losses = _trained(3)
    _save(saved.parents[2], run, losses)
    assert saved.read_bytes() == before


def test_a_checkpoint_holds_everything_of_a_run():
    fields = {field.name for field in dataclasses.fields(Checkpoint)}
    expected = {"recipe", "seed", "trajectory", "step", "network", "optimizer", "losses", "environment", "diverged_at"}
    assert fields == expected
