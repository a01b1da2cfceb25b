"""Metrics from predictions, with their uncertainty."""

from synreal.evaluate.accuracy import correct
from synreal.evaluate.calibration import confidence, expected_calibration_error, reliability
from synreal.evaluate.compare import check_same_images, compare
from synreal.evaluate.factors import error_ratio, factor_accuracy, relative_accuracy
from synreal.evaluate.finegrained import fine_grained_accuracy, restricted_correct
from synreal.evaluate.predictions import Predictions, predict
from synreal.evaluate.report import report
from synreal.evaluate.statistics import (
    MINIMUM_IMAGES,
    bootstrap_interval,
    holm,
    mcnemar_p,
    minimum_detectable_effect,
    wilson_interval,
)

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
