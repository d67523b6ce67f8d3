"""What can be read out of object vectors: train small probes on frozen slots and report R2 and accuracy.

Slots are a set, so before a slot can be asked for an object's properties somebody has to say which slot holds which
object. Two ways:

**By likelihood** (the default; needs no masks). The probe turns each slot into a distribution over properties, and each
object is explained by the mixture of its image's slots: loss = -log mean_k p(object | slot k). A test object is scored
by its expected answer under p(slot | object). The usual alternative, pairing with the best slot by optimal assignment
in training and test, rewards a probe for spreading its answers: vectors of pure noise then earn an R2 of 0.25. Under
the mixture, what a slot does not know costs likelihood, and noise stays at chance. `one_to_one` scores by optimal
assignment, to compare with figures made that way.

**By masks**, where encoder and data have them: the optimal assignment under IoU, fixed before training
(`pair_by_masks`).

However it is done, choosing a slot with the truth in hand helps: slots that are constants, each anchored at its own
place, answer "where is it" without looking. So every row carries the score of the same probe on another image's slots.

A visible object without a slot (fewer slots than objects) counts, answered with the training mean or the majority
class, so that encoders are compared on the same objects.
"""

from ocl.probes.fit import PROBES, linear_probe, mlp_probe
from ocl.probes.labelled import LabelledSlots, collect, pair_by_masks
from ocl.probes.measure import probe_properties
from ocl.probes.report import ProbeReport, ProbeRow

__all__ = [
    "PROBES",
    "LabelledSlots",
    "ProbeReport",
    "ProbeRow",
    "collect",
    "linear_probe",
    "mlp_probe",
    "pair_by_masks",
    "probe_properties",
]
