"""ntkla: forecasts what training on a new task does to every prediction on the old one, and proves how exact it is.

This file is the only public door: it re-exports by name, and tells the whole library.
`ntkla.testing` (strategies and references for tests) is imported only on request.
"""

from ntkla import models
from ntkla.forgetting.descent.convention import from_torch_sgd
from ntkla.forgetting.descent.training import GradientDescent, GradientFlow
from ntkla.forgetting.drifts import Forgetting
from ntkla.forgetting.forecast import forecast
from ntkla.forgetting.heads import LinearHead
from ntkla.forgetting.penalties.protection import ProtectedModes, Protection
from ntkla.forgetting.penalties.spectral_penalty import SpectralPenalty
from ntkla.forgetting.planning.columns import Scores, TaskOutcome
from ntkla.forgetting.planning.joint import JointOptimum, Standing
from ntkla.forgetting.planning.plan import plan
from ntkla.forgetting.planning.points import PlanPoint, PlanPoints
from ntkla.forgetting.planning.result import Plan, Recommendation
from ntkla.forgetting.predict import predict_forgetting
from ntkla.forgetting.reports.classes import ClassForgetting
from ntkla.forgetting.reports.drift_summary import DriftSummary, drift_summary
from ntkla.forgetting.reports.post_mortem import post_mortem
from ntkla.forgetting.reports.post_mortem_result import PostMortem
from ntkla.forgetting.reports.predictions import Flips, Predictions
from ntkla.forgetting.reports.report import ForgettingReport, ForgettingReports
from ntkla.forgetting.reports.samples import SampleDrift
from ntkla.forgetting.sequences.curriculum import CurriculumForecast, OrderForecasts
from ntkla.forgetting.sequences.learned import LearnedTask
from ntkla.forgetting.sequences.moments import TaskMoments
from ntkla.forgetting.sequences.sequence import TaskSequence
from ntkla.forgetting.sequences.sequence_head import SequenceHead
from ntkla.forgetting.softmax.cross_entropy_targets import cross_entropy_targets
from ntkla.forgetting.softmax.softmax_regression import SoftmaxRegression, softmax_regression
from ntkla.forgetting.spectrum.decompose import decompose
from ntkla.forgetting.spectrum.decompose_update import decompose_update
from ntkla.forgetting.spectrum.decomposition import Decomposition
from ntkla.forgetting.spectrum.drift_split import drift_split
from ntkla.forgetting.spectrum.drift_split_result import DriftSplit, DriftSplits, Enclosure
from ntkla.forgetting.spectrum.overlap import TaskOverlap, task_overlap
from ntkla.forgetting.spectrum.ranks import Rank, effective_rank, vulnerable_rank
from ntkla.forgetting.tasks import Task
from ntkla.linalg.backends.checked import checked_products
from ntkla.linalg.backends.dispatch import backend, last_dispatch
from ntkla.linalg.decisions import Decision
from ntkla.linalg.eigen.feature_modes import FeatureModes, feature_modes
from ntkla.linalg.eigen.modes import Eigenmodes
from ntkla.linalg.eigenmodes import eigenmodes
from ntkla.linalg.errors import (
    ArgumentError,
    BackendError,
    DeviceError,
    DtypeError,
    KernelFaultError,
    LabelError,
    MemoryEstimateError,
    MissingPackageError,
    NonFiniteError,
    NotCertifiedError,
    NtklaError,
    RidgeError,
    SavedStateError,
    ScaleError,
    ShapeError,
    TrainingDivergesError,
    UndecidedError,
    UnsupportedTrainingError,
)
from ntkla.linalg.exact_gram import ExactGram, exact_gram
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.layers.layer_diagonal import layer_ntk_diagonal
from ntkla.linalg.layers.layer_error import layer_ntk_error
from ntkla.linalg.layers.layer_operator import LayerNTK
from ntkla.linalg.layers.layer_ops import layer_ntk
from ntkla.linalg.operators import CrossGram, FunctionOperator, GramOperator
from ntkla.linalg.ops import gram, normal_matmul
from ntkla.linalg.planes import Planes
from ntkla.linalg.ridge import RidgeSolution, ridge_solve
from ntkla.linalg.softmax import SoftmaxGram
from ntkla.linalg.softmax_product import softmax_gram, softmax_gram_error
from ntkla.linalg.solve.exact_normal import ExactNormal
from ntkla.linalg.status import Status
from ntkla.models.empirical import EmpiricalNTK

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BackendError",
    "ClassForgetting",
    "CrossGram",
    "CurriculumForecast",
    "Decision",
    "Decomposition",
    "DeviceError",
    "DriftSplit",
    "DriftSplits",
    "DriftSummary",
    "DtypeError",
    "Eigenmodes",
    "EmpiricalNTK",
    "Enclosure",
    "ExactGram",
    "ExactNormal",
    "FeatureModes",
    "Flips",
    "Forgetting",
    "ForgettingReport",
    "ForgettingReports",
    "FunctionOperator",
    "GradientDescent",
    "GradientFlow",
    "GramOperator",
    "JointOptimum",
    "KernelFaultError",
    "KroneckerGram",
    "LabelError",
    "LayerNTK",
    "LearnedTask",
    "LinearHead",
    "MemoryEstimateError",
    "MissingPackageError",
    "NonFiniteError",
    "NotCertifiedError",
    "NtklaError",
    "OrderForecasts",
    "Plan",
    "PlanPoint",
    "PlanPoints",
    "Planes",
    "PostMortem",
    "Predictions",
    "ProtectedModes",
    "Protection",
    "Rank",
    "Recommendation",
    "RidgeError",
    "RidgeSolution",
    "SampleDrift",
    "SavedStateError",
    "ScaleError",
    "Scores",
    "SequenceHead",
    "ShapeError",
    "SoftmaxGram",
    "SoftmaxRegression",
    "SpectralPenalty",
    "Standing",
    "Status",
    "Task",
    "TaskMoments",
    "TaskOutcome",
    "TaskOverlap",
    "TaskSequence",
    "TrainingDivergesError",
    "UndecidedError",
    "UnsupportedTrainingError",
    "backend",
    "checked_products",
    "cross_entropy_targets",
    "decompose",
    "decompose_update",
    "drift_split",
    "drift_summary",
    "effective_rank",
    "eigenmodes",
    "exact_gram",
    "feature_modes",
    "forecast",
    "from_torch_sgd",
    "gram",
    "last_dispatch",
    "layer_ntk",
    "layer_ntk_diagonal",
    "layer_ntk_error",
    "models",
    "normal_matmul",
    "plan",
    "post_mortem",
    "predict_forgetting",
    "ridge_solve",
    "softmax_gram",
    "softmax_gram_error",
    "softmax_regression",
    "task_overlap",
    "vulnerable_rank",
]
