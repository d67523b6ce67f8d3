"""A world whose frames come with slots that know the frames before: token stacks, and slots carried over time.

Encoders are functions of one frame. Memory belongs to an episode, so it lives here, with what is reset, saved and
restored with the episode; to the agent it is a world that knows its objects, read by `RememberedSlots`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import ocl
from ocl.representations.base import ObjectEncoder
from ocl.shapes import Batch, Slots
from rl_probes.envs.world import Outcome, World

Integers = NDArray[np.int64]


@runtime_checkable
class Follows(Protocol):
    """An encoder whose slots can start from those of the frame before: `ocl.representations.FrozenSlotModel`."""

    def following(self, batch: Batch, previous: Tensor) -> Slots: ...


class SlotMemory(World):
    """Another world, encoded: its "objects" are "slots" (B K frames * D) and "visible" (B K).

    Every frame is encoded once, when its step or its episode begins; features of the newest frame come first. At an
    episode's first frame, all frames of the stack are that one.

    Args:
        world: is driven by this one from now on, and draws its own episodes: the same as without a memory.
        encoder: what turns frames into slots; a text is the checkpoint of one, see `ocl.load`.
        frames: how many are stacked, slot by slot. Makes sense where slots keep their order from frame to frame: with
            `carry`, patches, lists of objects.
        carry: start the slots of a frame from those of the frame before.

    Raises:
        ValueError: no frames, or an encoder that requires what the world cannot give.
        TypeError: `carry` with an encoder that cannot start from slots.
    """

    def __init__(self, world: World, encoder: ObjectEncoder | str, frames: int = 1, carry: bool = False) -> None:
        encoder = ocl.load(encoder) if isinstance(encoder, str) else encoder
        if frames < 1:
            raise ValueError(f"SlotMemory: frames must be at least 1, got {frames}.")
        if carry and not isinstance(encoder, Follows):
            raise TypeError(f"SlotMemory: {type(encoder).__name__} cannot start from other slots; leave carry out.")
        if encoder.requires - world.fields:
            raise ValueError(f"SlotMemory: the encoder requires {sorted(encoder.requires - world.fields)}.")
        self.world, self.encoder, self.frames, self.carry = world, encoder.eval(), frames, carry
        self.num_envs, self.num_actions, self.image_size = world.num_envs, world.num_actions, world.image_size
        self.fields, self.score_range = world.fields | {"objects"}, world.score_range
        self._device = next((t.device for t in encoder.state_dict().values()), torch.device("cpu"))
        self._slots = torch.zeros(world.num_envs, frames, encoder.num_slots, encoder.dim)
        self._valid = torch.zeros(world.num_envs, encoder.num_slots, dtype=torch.bool)
        self._begin(np.arange(world.num_envs))

    def reset(self, indices: Integers | None = None, seeds: Integers | None = None) -> None:
        """Raises ValueError where there is not one seed per index."""
        chosen = np.arange(self.num_envs) if indices is None else np.asarray(indices)
        if not len(chosen):
            return
        self.world.reset(chosen, seeds)
        self._begin(chosen)

    def _begin(self, chosen: Integers) -> None:
        """Nothing is remembered but the present frame."""
        slots = self.encoder(self._frames(chosen))
        self._slots[chosen] = slots.vectors.float().cpu().unsqueeze(1).expand(-1, self.frames, -1, -1)
        self._valid[chosen] = slots.valid.cpu()

    def step(self, actions: Integers) -> Outcome:
        outcome = self.world.step(actions)
        batch = self._frames(None)
        if self.carry:
            assert isinstance(self.encoder, Follows)
            slots = self.encoder.following(batch, self._slots[:, 0].to(self._device))
        else:
            slots = self.encoder(batch)
        newest = slots.vectors.float().cpu().unsqueeze(1)
        self._slots = torch.cat([newest, self._slots[:, :-1]], dim=1)
        self._valid = slots.valid.cpu()
        return outcome

    def observe(self, fields: frozenset[str], indices: Integers | None = None) -> Batch:
        batch = self.world.observe(fields - {"objects"}, indices)
        if "objects" in fields:
            chosen = np.arange(self.num_envs) if indices is None else indices
            stacked = self._slots[chosen].transpose(1, 2).flatten(2)  # (n K frames * D)
            batch = replace(batch, objects={"slots": stacked, "visible": self._valid[chosen]})
        return batch

    def provenance(self) -> dict[str, Any]:
        """That of the world; "memory" is what the agent sees of it."""
        memory = {"slots": self.encoder.fingerprint, "frames": self.frames, "carry": self.carry}
        return self.world.provenance() | {"memory": memory}

    def state(self) -> dict[str, Any]:
        return {
            "world": self.world.state(),
            "slots": self._slots.numpy().copy(),
            "valid": self._valid.numpy().copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a state of other slots, or of another world."""
        slots = torch.as_tensor(np.asarray(state["slots"], dtype=np.float32))
        if slots.shape != self._slots.shape:
            raise ValueError(f"SlotMemory.set_state: slots {tuple(slots.shape)}, expected {tuple(self._slots.shape)}.")
        self.world.set_state(state["world"])
        self._slots, self._valid = slots.clone(), torch.as_tensor(np.asarray(state["valid"], dtype=bool)).clone()

    def close(self) -> None:
        self.world.close()

    def _frames(self, indices: Integers | None) -> Batch:
        batch = self.world.observe(self.encoder.requires, indices)
        if self._device.type == "cpu":
            return batch
        objects = {name: value.to(self._device) for name, value in batch.objects.items()}
        labels = None if batch.segmentation is None else batch.segmentation.to(self._device)
        return Batch(batch.images.to(self._device), labels, objects)


class RememberedSlots(ObjectEncoder):
    """The slots of a `SlotMemory` world.

    Args:
        num_slots: K of its encoder.
        dim: frames * D of its encoder.
    """

    requires = frozenset({"objects"})

    def __init__(self, num_slots: int, dim: int) -> None:
        super().__init__()
        if min(num_slots, dim) < 1:
            raise ValueError(f"num_slots and dim must be at least 1, got {num_slots} and {dim}.")
        self.num_slots, self.dim = num_slots, dim

    def encode(self, batch: Batch) -> Slots:
        """Raises ValueError for frames without slots, or slots of another size."""
        slots = batch.objects.get("slots")
        if slots is None or tuple(slots.shape[1:]) != (self.num_slots, self.dim):
            found = "none" if slots is None else f"{tuple(slots.shape[1:])}"
            raise ValueError(
                f"RememberedSlots needs slots ({self.num_slots}, {self.dim}) of a SlotMemory, got {found}."
            )
        return Slots(slots, None, batch.objects["visible"])
