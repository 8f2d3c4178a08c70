"""ntkla: forecasts what training on a new task does to every prediction on the old one, and proves how exact it is.

This file is the only public door: it re-exports by name, and tells the whole library.
`ntkla.testing` (strategies and references for tests) is imported only on request.
"""

from ntkla.linalg.dispatch import backend, last_dispatch
from ntkla.linalg.errors import (
    ArgumentError,
    BackendError,
    DeviceError,
    DtypeError,
    LabelError,
    MemoryEstimateError,
    MissingPackageError,
    NonFiniteError,
    NotCertifiedError,
    NtklaError,
    RidgeError,
    ScaleError,
    ShapeError,
    TrainingDivergesError,
)
from ntkla.linalg.kronecker import KroneckerGram
from ntkla.linalg.operators import CrossGram, FunctionOperator, GramOperator
from ntkla.linalg.ops import gram, normal_matmul
from ntkla.linalg.status import Status

__version__ = "0.1.0"

__all__ = [
    "ArgumentError",
    "BackendError",
    "CrossGram",
    "DeviceError",
    "DtypeError",
    "FunctionOperator",
    "GramOperator",
    "KroneckerGram",
    "LabelError",
    "MemoryEstimateError",
    "MissingPackageError",
    "NonFiniteError",
    "NotCertifiedError",
    "NtklaError",
    "RidgeError",
    "ScaleError",
    "ShapeError",
    "Status",
    "TrainingDivergesError",
    "backend",
    "gram",
    "last_dispatch",
    "normal_matmul",
]
