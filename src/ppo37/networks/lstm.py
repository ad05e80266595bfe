"""Between the features of single observations and the heads: nothing, or an LSTM.

Legend: M sequences of L steps, B = M * L samples, F features, H cells.
"""

import torch
from torch import Tensor, nn

from ..algorithm.rollout import reset_state
from .mlp import MLP
from .nature import SMALLEST_SIDE, NatureCNN
from .registry import is_image, register


class FeedForward(nn.Module):
    """The core of a network without an LSTM: it returns the features unchanged."""

    state_size = 0

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, features: Tensor, lstm_state: Tensor, dones: Tensor) -> tuple[Tensor, Tensor]:
        return features, lstm_state


class LSTM(nn.Module):
    """Long short-term memory of H cells, in fp32.

    forward(features [B, F], lstm_state [M, 2 * H], dones [M, L])
    -> (outputs [B, H], lstm_state [M, 2 * H])
    The state is outputs and cells; both are zero after a step that ended its episode.
    Source: Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000.
    """

    def __init__(self, features: int, cells: int) -> None:
        super().__init__()
        self.features, self.state_size = cells, 2 * cells
        self.inputs = nn.Linear(features, 4 * cells)
        self.recurrent = nn.Linear(cells, 4 * cells, bias=False)

    def forward(self, features: Tensor, lstm_state: Tensor, dones: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        steps = self.inputs(features).unflatten(0, dones.shape).unbind(1)
        for from_inputs, done in zip(steps, dones.unbind(1), strict=True):
            output, cells = lstm_state.chunk(2, dim=-1)
            gates = (from_inputs + self.recurrent(output)).chunk(4, dim=-1)
            input_gate, forget_gate, output_gate = (
                gate.sigmoid() for gate in (gates[0], gates[1], gates[3])
            )
            cells = forget_gate * cells + input_gate * gates[2].tanh()
            output = output_gate * cells.tanh()
            outputs.append(output)
            lstm_state = reset_state(torch.cat([output, cells], dim=-1), done)
        return torch.stack(outputs, dim=1).flatten(0, 1), lstm_state


@register("lstm", smallest_side=SMALLEST_SIDE, vectors=True, cells=128)
def trunk_before_lstm(obs_shape: tuple[int, ...], hidden: tuple[int, ...]) -> NatureCNN | MLP:
    """Make the trunk `nature` for images, and `mlp_shared` for vectors."""
    return NatureCNN(obs_shape) if is_image(obs_shape) else MLP(obs_shape, hidden, False)
