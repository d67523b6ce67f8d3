"""All that a predictor remembers, as a tree for `rl_probes.snapshot`: put back, it goes on as if never stopped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rl_probes.rewards.predictor import RewardPredictor

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def remembered(predictor: RewardPredictor) -> dict[str, Any]:
    """Parameters and buffers, and of every predictor inside it what its attributes hold: numbers, tensors (episode
    memory), generators and optimisers, also within tuples, lists and dictionaries. All of it copied: a predictor that
    goes on learning leaves what was taken as it is.

    Attributes of other kinds (functions, sets of names) are settings, which whoever builds the predictor gives again.
    """
    return {
        "tensors": {name: _copy(tensor) for name, tensor in predictor.state_dict().items()},
        "attributes": {
            name: {key: kept for key, value in _attributes(part).items() if (kept := _taken(value)) is not None}
            for name, part in _predictors(predictor)
        },
    }


@torch.no_grad()
def remember(predictor: RewardPredictor, state: dict[str, Any]) -> None:
    """Put back what `remembered` took, arrays standing for tensors; tensors go where the predictor's own are.

    Raises:
        ValueError: a state of another predictor.
    """
    names = [name for name, _ in _predictors(predictor)]
    own = predictor.state_dict()
    if own.keys() != state["tensors"].keys() or names != list(state["attributes"]):
        raise ValueError(f"the state is of another predictor than this {type(predictor).__name__}; build the same one.")
    predictor.load_state_dict({name: torch.as_tensor(value) for name, value in state["tensors"].items()})
    device = next((tensor.device for tensor in own.values()), torch.device("cpu"))
    for name, part in _predictors(predictor):
        for key, kept in state["attributes"][name].items():
            _put(part, key, kept, device)


def _copy(tensor: Tensor, device: torch.device | str = "cpu") -> Tensor:
    return tensor.detach().to(device, copy=True)


def _moments(entry: dict[str, Any]) -> dict[str, Tensor]:
    """What an optimiser keeps of one parameter."""
    return {name: _copy(torch.as_tensor(moment)) for name, moment in entry.items() if moment is not None}


def _predictors(predictor: RewardPredictor) -> list[tuple[str, RewardPredictor]]:
    return [(name, part) for name, part in predictor.named_modules() if isinstance(part, RewardPredictor)]


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(part).items() if key not in _OF_EVERY_MODULE}


def _taken(value: Any) -> dict[str, Any] | None:
    """One entry, named by its kind; None for what is no memory."""
    match value:
        case None:
            return {"nothing": True}
        case Tensor():
            return {"tensor": _copy(value)}
        case torch.Generator():
            return {"generator": value.get_state()}
        case torch.optim.Optimizer():
            moments = value.state_dict()["state"]
            return {"optimiser": {str(index): _moments(entry) for index, entry in moments.items()}}
        case bool() | int() | float() | str():
            return {"plain": value}
        case tuple() | list():
            items = [_taken(item) for item in value]
            return None if None in items else {type(value).__name__: items}
        case dict() if all(isinstance(name, str) for name in value):
            entries = {name: _taken(item) for name, item in value.items()}
            return None if None in entries.values() else {"dict": entries}
    return None


def _put(part: RewardPredictor, key: str, kept: dict[str, Any], device: torch.device) -> None:
    ((kind, content),) = kept.items()
    if kind == "generator":
        getattr(part, key).set_state(torch.as_tensor(content))
    elif kind == "optimiser":
        optimiser = getattr(part, key)
        moments = {int(index): _moments(entry) for index, entry in content.items()}
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    else:
        setattr(part, key, _given(kept, device))


def _given(kept: dict[str, Any], device: torch.device) -> Any:
    ((kind, content),) = kept.items()
    match kind:
        case "nothing":
            return None
        case "tensor":
            return _copy(torch.as_tensor(content), device)
        case "tuple":
            return tuple(_given(item, device) for item in content)
        case "list":
            return [_given(item, device) for item in content]
        case "dict":
            return {name: _given(item, device) for name, item in content.items()}
    return content
