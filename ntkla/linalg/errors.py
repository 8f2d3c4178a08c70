"""Named exceptions: everything a caller can cause says what was expected, what came, and what to do.

What an iteration cannot reach is not an exception but a :class:`ntkla.Status` with a diagnosis.
"""


class NtklaError(Exception):
    """Base of every exception that ntkla raises on purpose."""


class ShapeError(NtklaError, ValueError):
    """An array has the wrong number of dimensions, or two arrays disagree in a length."""


class DtypeError(NtklaError, TypeError):
    """An array has an element type that the computation does not accept, or is not a tensor."""


class DeviceError(NtklaError, ValueError):
    """Arrays lie on different devices, or on a device that has no float64."""


class NonFiniteError(NtklaError, ValueError):
    """An input holds a NaN or an infinity."""


class ScaleError(NtklaError, ValueError):
    """The entries are so large that their products overflow float64."""


class RidgeError(NtklaError, ValueError):
    """The ridge or the weight decay is negative or not a finite number."""


class ArgumentError(NtklaError, ValueError):
    """An option has a value outside its documented range."""


class LabelError(NtklaError, ValueError):
    """A class label lies outside the stated classes."""


class UnsupportedTrainingError(NtklaError, ValueError):
    """The optimiser is not full-batch gradient descent, so its training has no closed form."""


class TrainingDivergesError(NtklaError, ValueError):
    """The learning rate makes gradient descent diverge; `.largest_stable_lr` holds the limit."""

    def __init__(self, message: str, largest_stable_lr: float) -> None:
        super().__init__(message)
        self.largest_stable_lr = largest_stable_lr


class MemoryEstimateError(NtklaError, MemoryError):
    """The computation would need more memory than there is; `.bytes_needed` was estimated before trying."""

    def __init__(self, message: str, bytes_needed: int) -> None:
        super().__init__(message)
        self.bytes_needed = bytes_needed


class BackendError(NtklaError, RuntimeError):
    """The backend that was forced cannot run this operation here, or float64 products break their rounding bound."""


class KernelFaultError(NtklaError, RuntimeError):
    """A kernel's result is not the product of its factors (found inside `checked_products`).

    Attributes:
        ran: which kernel, as `last_dispatch` names it.
        rows: the rows that are wrong, ascending.
    """

    def __init__(self, message: str, ran: str, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.ran, self.rows = ran, rows


class MissingPackageError(NtklaError, ImportError):
    """An optional package that this function needs is not installed."""


class SavedStateError(NtklaError, ValueError):
    """A saved state, or the file that it is in, is of another version, damaged, or of something else."""


class NotCertifiedError(NtklaError, ArithmeticError):
    """Raised only with `strict=True`: no bound is proved, or the one that was reached does not meet the tolerance."""


class UndecidedError(NtklaError, ValueError):
    """A single number was asked of a decision that the error bounds leave open."""
