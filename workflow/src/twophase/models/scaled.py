"""Networks whose output is scaled about its initialisation, so that training can be made as lazy as one likes."""

import copy

import torch
from torch import Tensor, nn

from twophase.errors import ModelError

# In training mode these give the network and its frozen copy different functions of the same parameters.
OWN_IN_TRAINING = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.dropout._DropoutNd,
    nn.MultiheadAttention,
    nn.RReLU,
)


class ScaledNetwork(nn.Module):
    r"""``F(x; theta) = scale * (f(x; theta) - f(x; theta_init))`` (Chizat, Oyallon and Bach 2019, arXiv 1812.07956).

    The larger the scale, the less parameters have to move for the logits to move as far; with a learning rate over
    ``scale ** 2`` logits move as fast as those of ``f``, parameters ``1 / scale`` as far, and for a large scale the
    tangent kernel stays what it is at initialisation.

    ``f(x; theta_init)`` comes from a copy of the network, frozen in evaluation mode. The copy is no submodule: it is
    neither trained, perturbed nor stored. A network built again from the same settings and seed has the same copy, and
    `load_state_dict` leaves it alone. It follows to other devices and number types, and into deep copies.
    """

    def __init__(self, network: nn.Module, scale: float, *, initial: nn.Module | None = None):
        """Scale a network about its initialisation.

        Args:
            network: f; taken as it is.
            scale: Above 0.
            initial: f at theta_init; by default a copy of ``network`` as it is now.
        """
        super().__init__()
        self.network = network
        self.scale = scale
        frozen = copy.deepcopy(network).requires_grad_(False).eval() if initial is None else initial
        self._initial = (frozen,)  # modules don't look into tuples

    def forward(self, inputs: Tensor) -> Tensor:
        """Map inputs ``(n, *d)`` to logits ``(n, K)``, exactly 0 at initialisation."""
        with torch.no_grad():
            initial = self._initial[0](inputs)
        return self.scale * (self.network(inputs) - initial)

    def around(self, network: nn.Module) -> "ScaledNetwork":
        """The same scale and initialisation around another network, such as this one's linearised in its parameters."""
        return ScaledNetwork(network, self.scale, initial=self._initial[0])

    def _apply(self, fn, recurse=True):
        """Change device, number type or order in memory of the frozen copy too."""
        self._initial[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


def scaled_network(network: nn.Module, scale: float, *, name: str) -> ScaledNetwork:
    """Scale a network about its initialisation; see `ScaledNetwork`.

    Args:
        network: At initialisation.
        scale: Above 0.
        name: What messages call it.

    Returns:
        The scaled network.

    Raises:
        ModelError: If a layer does something of its own in training mode, such as BatchNorm or dropout.
    """
    own = [(path, module) for path, module in network.named_modules() if isinstance(module, OWN_IN_TRAINING)]
    if own:
        path, module = own[0]
        raise ModelError(
            f"model {name} has {type(module).__name__} ({path or 'itself'}), which does something of its own in "
            "training; model.output_scale needs a network that is one function of its parameters, without BatchNorm "
            "and dropout"
        )
    return ScaledNetwork(network, scale)


def core_of(network: nn.Module) -> tuple[nn.Module, float]:
    """What to differentiate in place of a network: f and the scale of a scaled one, else the network itself and 1.

    The derivatives of ``F`` are those of ``f`` times the scale. Taken from ``F`` they would cost passes of the copy,
    and where it cancels most of ``f``, checks of the outputs would see little but rounding.
    """
    return (network.network, network.scale) if isinstance(network, ScaledNetwork) else (network, 1.0)
