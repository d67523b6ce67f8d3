"""Whatever makes objects ends here: every way from images (or state) to `Slots`, behind one frozen interface."""

from ocl.representations.base import ObjectEncoder
from ocl.representations.binding_slots import BindingSlots, CosineSimilarity
from ocl.representations.masked import MaskedObjectEncoder
from ocl.representations.oracle import OracleMasks, OracleObjects
from ocl.representations.pooled import SlotMean
from ocl.representations.positioned import WithPositions
from ocl.representations.slot_model import FrozenSlotModel
from ocl.representations.tokens import Pixels, RandomCNN, Tokens, ViTPatches, ViTPooled
from ocl.representations.whole import WholeImage

__all__ = [
    "BindingSlots",
    "CosineSimilarity",
    "FrozenSlotModel",
    "MaskedObjectEncoder",
    "ObjectEncoder",
    "OracleMasks",
    "OracleObjects",
    "Pixels",
    "RandomCNN",
    "SlotMean",
    "Tokens",
    "ViTPatches",
    "ViTPooled",
    "WholeImage",
    "WithPositions",
]
