"""Segment Anything (Kirillov et al. 2023, arXiv 2304.02643) as a source of masks."""

from ocl.masks.sam.generator import AutomaticMaskGenerator
from ocl.masks.sam.load import load_sam, random_sam
from ocl.masks.sam.prompts import SamPrompts

__all__ = ["AutomaticMaskGenerator", "SamPrompts", "load_sam", "random_sam"]
