"""One training run: where it starts, and how it gets from one step to a later one."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from twophase.batches import Batches
from twophase.data import ImageData
from twophase.errors import DivergenceError
from twophase.models import build_model, check_model
from twophase.optimizers import build_optimizer, update_parameters
from twophase.randomness import Source, torch_seed
from twophase.schedule import learning_rate_at

STEPS_BETWEEN_CHECKS = 50  # the loss is looked at, and progress told, this often: on a GPU the host waits only then


class TrainingRun:
    """A network in training: at a step, on its way along one trajectory.

    Everything that the rest of the run depends on is ``step``, ``network``, ``optimizer`` and the seed: batches,
    augmentation, learning rate and the network's own random numbers are functions of (seed, step).

    Attributes:
        may_diverge: Whether a loss that is infinite or NaN ends the training, as a result, instead of the job.
        diverged_at: The update whose loss was so, if there was one; nothing is trained from there on.
    """

    may_diverge = False
    diverged_at: int | None = None

    def __init__(self, data: ImageData, settings: dict, seed: int) -> None:
        """Set up a run at step 0.

        Args:
            data: Images on the device of the run, in its dtype.
            settings: As `twophase.config.Study.run_settings` gives them.
            seed: Seeds initialisation, batch order, augmentation and the network's own random numbers.

        Raises:
            ModelError: If the network can't be built or its outputs don't fit the data.
        """
        self.seed = seed
        self.step = 0
        self.data = data
        device = data.train_images.device
        with global_generators_kept(device):
            torch.manual_seed(torch_seed(seed, Source.INITIALISATION))
            network = build_model(settings["model"], image_shape=data.image_shape, classes=data.classes)
        # Channels last makes a ResNet-20's training step a fifth shorter on a CPU, and suits GPUs.
        self.network = network.to(device, data.train_images.dtype, memory_format=torch.channels_last)
        check_model(self.network, data.train_images[:2], data.classes, name=settings["model"]["name"])
        trainable = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = build_optimizer(settings["optimizer"], trainable)
        self._learning_rate = settings["optimizer"]["learning_rate"]
        self._schedule = settings["schedule"]
        self._origin: list[Tensor] = []
        self.batch_size = settings["batch_size"]
        self._batches = Batches(
            data,
            seed,
            batch_size=self.batch_size,
            crop_padding=settings["crop_padding"],
            horizontal_flip=settings["horizontal_flip"],
        )

    def advance(self, until: int, *, progress: Callable[[int], None] | None = None) -> Tensor:
        """Train up to a later step.

        Args:
            until: Step to reach.
            progress: Called with the step reached, every `STEPS_BETWEEN_CHECKS` steps.

        Returns:
            Training loss of each update, float64 on the CPU, shape ``(until - step,)``; NaN after a divergence.

        Raises:
            DivergenceError: At the first update whose loss is infinite or NaN, or if the last one makes parameters so;
                unless the run may diverge.
        """
        losses: list[Tensor] = []
        device = self.data.train_images.device
        self.network.train()
        with global_generators_kept(device):
            while self.step < until and self.diverged_at is None:
                stop = min(self.step + STEPS_BETWEEN_CHECKS, until)
                chunk = torch.stack([self._update() for _ in range(self.step, stop)])
                losses.append(self._checked(chunk, stop).double().cpu())
                if progress:
                    progress(self.step)
        self._check_parameters()
        losses.append(torch.full((max(0, until - self.step),), torch.nan, dtype=torch.float64))  # after a divergence
        self.step = max(self.step, until)
        return torch.cat(losses)

    def continue_with(
        self, network: nn.Module, optimizer: Optimizer, *, learning_rate: float, schedule: dict, origin: list[Tensor]
    ) -> None:
        """Train another network from the present step on, with the same batches.

        Args:
            network: On the device of the run.
            optimizer: Of its parameters.
            learning_rate: Base learning rate.
            schedule: As `twophase.config.Study.schedule_in_steps` gives it.
            origin: Where its parameters are offsets from, for weight decay.
        """
        self.network, self.optimizer, self._origin = network, optimizer, origin
        self._learning_rate, self._schedule = learning_rate, schedule

    def _update(self) -> Tensor:
        """Take theta_step to theta_{step+1}; the batch's loss stays on the device."""
        torch.manual_seed(torch_seed(self.seed, Source.NETWORK, self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, self._learning_rate, self._schedule)
        images, labels = self._batches(self.step)
        self.optimizer.zero_grad()
        loss = functional.cross_entropy(self.network(images), labels)
        loss.backward()
        update_parameters(self.optimizer, self._origin)
        self.step += 1
        return loss.detach()

    def _checked(self, losses: Tensor, stop: int) -> Tensor:
        finite = torch.isfinite(losses)
        if not finite.all():
            step = stop - len(losses) + int((~finite).nonzero()[0])
            if self.may_diverge:
                self.diverged_at = step
                losses[step - stop + len(losses) + 1 :] = torch.nan
                return losses
            rate = learning_rate_at(step, self._learning_rate, self._schedule)
            raise DivergenceError(
                f"the training loss became {losses[step - stop].item()} at step {step} (seed {self.seed}, learning "
                f"rate {rate:g}); expected a finite loss. A smaller optimizer.learning_rate or a warm-up may help."
            )
        return losses

    def _check_parameters(self) -> None:
        """The last update's outcome isn't in any loss yet."""
        if self.diverged_at is None and not all(p.isfinite().all() for p in trainable_parameters(self.network)):
            if self.may_diverge:
                self.diverged_at = self.step
                return
            raise DivergenceError(
                f"parameters became infinite or NaN at step {self.step} (seed {self.seed}); expected finite ones. "
                "A smaller optimizer.learning_rate or a warm-up may help."
            )


def global_generators_kept(device: torch.device) -> AbstractContextManager[None]:
    """A context that leaves PyTorch's global random state as found, on the CPU and on the device."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def trainable_parameters(network: nn.Module) -> list[Tensor]:
    """Detached trainable parameters, theta, in the network's order; they share its memory."""
    return [parameter.detach() for parameter in network.parameters() if parameter.requires_grad]
