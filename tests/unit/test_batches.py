import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_images

from twophase.batches import AUGMENTATION_BLOCK, Batches

STEPS = range(2 * AUGMENTATION_BLOCK + 3)


def _numbered(size=30, shape=(2, 5, 7)):
    """Images whose label is their own number, so that a batch tells which images it holds."""
    data = tiny_images(size, shape=shape)
    return dataclasses.replace(data, train_labels=torch.arange(size), class_names=tuple(map(str, range(size))))


def _windows_of(image, original, black, padding):
    """Every (top, left, mirrored) by which slicing a padded image gives this one."""
    channels, height, width = original.shape
    padded = np.empty((channels, height + 2 * padding, width + 2 * padding), np.float32)
    for channel in range(channels):
        padded[channel] = black[channel]
    padded[:, padding : padding + height, padding : padding + width] = original
    found = []
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found += [
                (top, left, mirrored)
                for mirrored, wanted in ((False, window), (True, window[:, :, ::-1]))
                if np.array_equal(image, wanted)
            ]
    return found


def _all_windows(data, steps=STEPS, *, seed=0, batch_size=8, padding=0, flip=False):
    """The (top, left, mirrored) of each image of each batch; fails where an image isn't exactly one window."""
    batches = Batches(data, seed, batch_size=batch_size, crop_padding=padding, horizontal_flip=flip)
    originals, black = data.train_images.numpy(), data.black.numpy()
    windows = []
    for step in steps:
        images, labels = batches(step)
        assert images.shape == (batch_size, *data.image_shape)
        assert images.dtype == data.train_images.dtype
        for image, label in zip(images.numpy(), labels.numpy(), strict=True):
            found = _windows_of(image, originals[label], black, padding)
            assert len(found) == 1, (step, label, found)
            windows += found
    return windows


@pytest.mark.parametrize(("size", "batch_size"), [(30, 8), (30, 10), (30, 30), (7, 16), (5, 1)])
def test_each_epoch_holds_every_image_once_across_batches(size, batch_size):
    batches = Batches(_numbered(size), seed=0, batch_size=batch_size)
    line = torch.cat([batches(step)[1] for step in range(4 * size // batch_size + 1)])[: 4 * size].tolist()
    epochs = [line[start : start + size] for start in range(0, 4 * size, size)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert len(set(map(tuple, epochs))) == 4


def test_a_batch_depends_on_seed_and_step_alone():
    data = _numbered()
    settings = {"batch_size": 8, "crop_padding": 1, "horizontal_flip": True}
    in_turn = Batches(data, 0, **settings)
    expected = [in_turn(step) for step in STEPS]
    shuffled = Batches(data, 0, **settings)
    for step in np.random.default_rng(0).permutation(np.repeat(STEPS, 2)):
        for part, wanted in zip(shuffled(int(step)), expected[step], strict=True):
            assert torch.equal(part, wanted)
    for step in (0, 63, 64, 130):
        for part, wanted in zip(Batches(data, 0, **settings)(step), expected[step], strict=True):
            assert torch.equal(part, wanted)


def test_a_batch_stays_as_it_is_when_the_next_is_made():
    batches = Batches(_numbered(), 0, batch_size=8, crop_padding=1)
    first = batches(0)[0]
    kept = first.clone()
    batches(1)
    assert torch.equal(first, kept)


def test_the_images_of_the_data_set_stay_as_they_are():
    data = _numbered()
    kept = data.train_images.clone()
    for settings in ({}, {"crop_padding": 1}, {"horizontal_flip": True}):
        Batches(data, 0, batch_size=8, **settings)(0)[0].zero_()
    assert torch.equal(data.train_images, kept)


def test_seeds_give_other_orders_and_other_windows():
    data = _numbered(40)
    orders = [torch.cat([Batches(data, seed, batch_size=8)(step)[1] for step in range(5)]) for seed in range(4)]
    windows = [_all_windows(data, range(5), seed=seed, padding=1, flip=True) for seed in range(4)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert len(set(map(tuple, windows))) == 4


@pytest.mark.parametrize(("padding", "flip"), [(1, False), (2, True), (0, True)])
@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 6, 4)])
def test_every_image_is_a_window_of_its_padded_original(padding, flip, shape):
    windows = _all_windows(_numbered(shape=shape), padding=padding, flip=flip)
    offsets = range(2 * padding + 1)
    seen = {(top, left) for top, left, _ in windows}
    assert seen == {(top, left) for top in offsets for left in offsets}
    share, count = 1 / (2 * padding + 1), len(windows)
    for axis in range(2):
        counts = np.bincount([window[axis] for window in windows])
        assert abs(counts - share * count).max() <= 5 * np.sqrt(count * share * (1 - share))
    mirrored = sum(window[2] for window in windows)
    assert (abs(mirrored - count / 2) < 5 * np.sqrt(count) / 2) if flip else not mirrored


def test_images_of_one_batch_and_a_place_in_several_batches_get_their_own_windows():
    windows = _all_windows(_numbered(), range(8), padding=2, flip=True)
    for part in (windows[:8], windows[8:16], windows[::8]):
        assert len(set(part)) > 4


def test_windows_are_drawn_anew_all_along():
    windows = _all_windows(_numbered(), padding=1, flip=True)
    batches = {tuple(windows[start : start + 8]) for start in range(0, len(windows), 8)}
    assert len(batches) == len(STEPS)


def test_windows_come_from_the_seed_of_the_augmentation():
    """Part of every result: changing how they are drawn changes all trajectories."""
    drawn = np.random.Generator(np.random.PCG64(np.random.SeedSequence(6, spawn_key=(2, 1))))
    top, left = drawn.integers(0, 3, size=(2, AUGMENTATION_BLOCK, 8, 1))
    mirrored = drawn.integers(0, 2, size=(AUGMENTATION_BLOCK, 8, 1)).astype(bool)
    steps = range(AUGMENTATION_BLOCK, 2 * AUGMENTATION_BLOCK)
    expected = zip(top.ravel(), left.ravel(), mirrored.ravel(), strict=True)
    assert _all_windows(_numbered(), steps, seed=6, padding=1, flip=True) == list(expected)


def test_without_crop_and_flip_the_images_come_as_they_are():
    data = _numbered()
    images, labels = Batches(data, 0, batch_size=8)(3)
    assert torch.equal(images, data.train_images[labels])


def test_order_and_windows_have_seeds_of_their_own():
    data = _numbered()
    plain, augmented = (
        Batches(data, 0, batch_size=8, crop_padding=padding, horizontal_flip=bool(padding)) for padding in (0, 1)
    )
    for step in range(9):
        assert torch.equal(plain(step)[1], augmented(step)[1])
    # Another number of images gives other orders, yet the same windows.
    assert _all_windows(_numbered(30), range(5), padding=1, flip=True) == _all_windows(
        _numbered(23), range(5), padding=1, flip=True
    )
