"""Metrics: a per-image function for each, and a `torchmetrics.Metric` that averages it over images."""

from ocl.metrics.boxes import BoxCorLoc, box_corloc, tight_boxes
from ocl.metrics.clustering import AdjustedRandIndex, ForegroundARI, adjusted_rand_index, foreground_ari
from ocl.metrics.image_mean import ImageMean, PerImage
from ocl.metrics.labels import UNCLAIMED, class_segmentation, contingency, label_map
from ocl.metrics.overlap import (
    CorLoc,
    MeanBestOverlap,
    MeanIoU,
    corloc,
    intersection_over_union,
    mean_best_overlap,
    mean_iou,
    recovery,
)
from ocl.metrics.properties import accuracy, balanced_accuracy, r_squared
from ocl.metrics.segmentation import SegmentationMetrics, segmentation_measures

__all__ = [
    "UNCLAIMED",
    "AdjustedRandIndex",
    "BoxCorLoc",
    "CorLoc",
    "ForegroundARI",
    "ImageMean",
    "MeanBestOverlap",
    "MeanIoU",
    "PerImage",
    "SegmentationMetrics",
    "accuracy",
    "adjusted_rand_index",
    "balanced_accuracy",
    "box_corloc",
    "class_segmentation",
    "contingency",
    "corloc",
    "foreground_ari",
    "intersection_over_union",
    "label_map",
    "mean_best_overlap",
    "mean_iou",
    "r_squared",
    "recovery",
    "segmentation_measures",
    "tight_boxes",
]
