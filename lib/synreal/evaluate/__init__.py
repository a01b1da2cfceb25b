"""Metrics from predictions, with their uncertainty."""

from synreal.evaluate.metrics import (
    confidence,
    correct,
    error_ratio,
    expected_calibration_error,
    factor_accuracy,
    fine_grained_accuracy,
    relative_accuracy,
    reliability,
    restricted_correct,
)
from synreal.evaluate.report import check_same_images, compare, report
from synreal.evaluate.resampling import (
    MINIMUM_IMAGES,
    bootstrap_interval,
    holm,
    mcnemar_p,
    minimum_detectable_effect,
    wilson_interval,
)
from synreal.models.predictions import Predictions, predict

__all__ = [
    "MINIMUM_IMAGES",
    "Predictions",
    "bootstrap_interval",
    "check_same_images",
    "compare",
    "confidence",
    "correct",
    "error_ratio",
    "expected_calibration_error",
    "factor_accuracy",
    "fine_grained_accuracy",
    "holm",
    "mcnemar_p",
    "minimum_detectable_effect",
    "predict",
    "relative_accuracy",
    "reliability",
    "report",
    "restricted_correct",
    "wilson_interval",
]
