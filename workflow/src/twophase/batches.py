"""The batch of a step: which images, cropped and mirrored how; a function of (seed, step) alone."""

import numpy as np
import torch
from torch import Tensor

from twophase.data import ImageData
from twophase.randomness import Source, numpy_generator, random_order, spawned_sequence

AUGMENTATION_BLOCK = 64  # steps whose augmentation is drawn together; part of every result


class Batches:
    """Batches of a training run, made on the data's device.

    The images of all epochs stand in one line, each epoch shuffled anew; step ``t`` takes the places
    ``t * batch_size`` up to ``(t + 1) * batch_size`` of it. So every batch is full, and none is left out.
    """

    def __init__(
        self, data: ImageData, seed: int, *, batch_size: int, crop_padding: int = 0, horizontal_flip: bool = False
    ) -> None:
        """Set up the batches of one seed.

        Args:
            data: Images on their device.
            seed: The run's seed.
            batch_size: Images in a batch.
            crop_padding: Black pixels around an image, from which a window of its own size is cut; 0 for no crop.
            horizontal_flip: Mirror each image with probability one half.
        """
        self._data = data
        self._seed = seed
        self._batch_size = batch_size
        self._padding = crop_padding
        self._flip = horizontal_flip
        self._epochs: dict[int, Tensor] = {}
        self._block: tuple[int, Tensor, Tensor] | None = None
        channels, height, width = data.image_shape
        if crop_padding:
            padded = (batch_size, channels, height + 2 * crop_padding, width + 2 * crop_padding)
            self._canvas = data.black.view(1, -1, 1, 1).expand(padded).contiguous()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images ``(batch_size, C, H, W)`` and labels ``(batch_size,)`` of update ``step`` (0-based)."""
        indices = self._indices(step)
        images = self._data.train_images[indices]
        if self._padding or self._flip:
            images = self._augmented(images, step)
        return images, self._data.train_labels[indices]

    def _indices(self, step: int) -> Tensor:
        size = len(self._data.train_labels)
        start = step * self._batch_size
        epochs = range(start // size, (start + self._batch_size - 1) // size + 1)
        self._epochs = {epoch: self._epochs[epoch] if epoch in self._epochs else self._order(epoch) for epoch in epochs}
        line = self._epochs[epochs[0]] if len(epochs) == 1 else torch.cat([self._epochs[epoch] for epoch in epochs])
        offset = start - epochs[0] * size
        return line[offset : offset + self._batch_size]

    def _order(self, epoch: int) -> Tensor:
        size = len(self._data.train_labels)
        order = random_order(size, spawned_sequence(self._seed, Source.BATCH_ORDER, epoch))
        return self._sent(order)

    def _augmented(self, images: Tensor, step: int) -> Tensor:
        """Cut each image's window out of the padded batch; a mirrored one is read from right to left."""
        rows, columns = self._windows(step)
        if self._padding:
            inside = slice(self._padding, -self._padding)
            self._canvas[:, :, inside, inside] = images
            images = self._canvas
        example = torch.arange(self._batch_size, device=images.device)
        picked = images[example[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # (batch, H, W, C)
        return picked.permute(0, 3, 1, 2)

    def _windows(self, step: int) -> tuple[Tensor, Tensor]:
        """Row ``(batch, H)`` and column ``(batch, W)`` indices of each image's window."""
        block, within = divmod(step, AUGMENTATION_BLOCK)
        if self._block is None or self._block[0] != block:
            self._block = (block, *self._draw_windows(block))
        return self._block[1][within], self._block[2][within]

    def _draw_windows(self, block: int) -> tuple[Tensor, Tensor]:
        generator = numpy_generator(self._seed, Source.AUGMENTATION, block)
        shape = (AUGMENTATION_BLOCK, self._batch_size, 1)
        top, left = generator.integers(0, 2 * self._padding, size=(2, *shape), endpoint=True)
        mirrored = generator.integers(0, 2, size=shape).astype(bool) & self._flip
        _, height, width = self._data.image_shape
        forward = np.arange(width)
        rows = top + np.arange(height)
        columns = left + np.where(mirrored, forward[::-1], forward)
        return self._sent(rows), self._sent(columns)

    def _sent(self, array: np.ndarray) -> Tensor:
        """The array on the data's device; a GPU fetches it from pinned memory, for which the host doesn't wait."""
        tensor, device = torch.from_numpy(array), self._data.train_images.device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
