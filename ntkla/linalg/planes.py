"""`Planes`: float32 features kept as two planes of float16 for `gram`, made once and used as often as wanted.

Three products of half-precision numbers then give a Gram matrix that is as accurate as float32's (`precision="split"`);
making the planes costs a few passes over the features, which several Gram matrices of them share.  What planes lose,
and which rows cannot be kept as planes: `csrc_triton.planes`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ntkla.linalg import checks
from ntkla.linalg.backends import kernels
from ntkla.linalg.backends.dispatch import Call, add_to_record, backend, run
from ntkla.linalg.backends.primitive import primitive_input
from ntkla.linalg.backends.references import gram_reference
from ntkla.linalg.errors import ArgumentError, DeviceError, DtypeError, ShapeError


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Planes:
    """A snapshot of features for `ntkla.gram(planes)` and `ntkla.gram(planes, other_planes)`.

    Where torch runs, it multiplies the numbers that the planes hold in float32.  The bound of `gram` is about `x`.

    What is written to `x` afterwards is not seen: `require` tells.  Planes are not differentiable, they are made of the
    detached `x`; `gram(x, precision="split")` is.

    Args:
        x: float32 [n, F], any strides and device.

    Raises:
        DtypeError, ShapeError, DeviceError

    Rows fall back that planes cannot hold to float32's accuracy, number by number: with numbers of too many sizes (from
    about 2^28 between the largest and the smallest on), all below 2^-98, subnormal or not finite.  Their rows and
    columns of a result are as right as the others, and as slow as float32 without tensor cores; `rows_fallen_back`
    counts them.

    Cost: about fifteen passes over x, and one synchronisation with the device.
    """

    _parts: tuple[torch.Tensor, ...]

    def __init__(self, x: torch.Tensor) -> None:
        _float32("Planes", x)
        checks.with_values("x", x)
        object.__setattr__(self, "_parts", tuple(kernels.split(x)))

    @property
    def shape(self) -> tuple[int, int]:
        """(n, F)."""
        return self._parts[0].shape[0], self._parts[4].shape[1]

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self._parts[0].device

    @property
    def rows_fallen_back(self) -> int:
        """Rows that are kept in float32, and multiplied in float32 without tensor cores."""
        return self._parts[3].shape[0]

    @property
    def nbytes(self) -> int:
        """Memory that they take, about that of the features."""
        return sum(part.nbytes for part in self._parts)

    def to_dense(self) -> torch.Tensor:
        """The features that the planes hold, float32 [n, F]: within `2^-23`, relatively, of those they were made of."""
        return kernels.restored(self._parts)

    def require(self, x: torch.Tensor) -> None:
        """Raises unless the planes of `x` are these: of as many rows and features, on this device, with equal numbers.

        Numbers count as equal that have the same planes, so that no result differs.

        Raises:
            DtypeError, ShapeError, DeviceError
            ArgumentError: other values.

        Cost: that of making planes.
        """
        _float32("Planes.require", x)
        if tuple(x.shape) != self.shape:
            raise ShapeError(f"planes: made for features of shape {self.shape}, got {tuple(x.shape)}. Make new ones.")
        if x.device != self.device:
            raise DeviceError(f"planes: made on {self.device}, and the features lie on {x.device}. Make new ones.")
        for ours, theirs in zip(self._parts, kernels.split(x), strict=True):
            # By their bits: a NaN equals itself here.
            if ours.shape != theirs.shape or not torch.equal(ours.view(torch.uint8), theirs.view(torch.uint8)):
                raise ArgumentError("planes: made for other values than these features have. Make new ones.")

    def __str__(self) -> str:
        n, features = self.shape
        fallen = {0: "no row", 1: "1 row"}.get(self.rows_fallen_back, f"{self.rows_fallen_back} rows")
        return f"Planes: {n} x {features} on {self.device}, {fallen} fallen back to float32, {self.nbytes / 1e6:.3g} MB"

    __repr__ = __str__


def planes_gram(x: object, y: object, bias: bool, precision: str) -> torch.Tensor:
    """`gram` of planes.

    Raises:
        DtypeError: planes and a tensor.
        ShapeError, DeviceError: planes of other features or of another device.
        ArgumentError: another precision than "auto" or "split".
    """
    checks.choice("precision", precision, ("auto", "split"))
    if not isinstance(x, Planes) or not (y is None or isinstance(y, Planes)):
        raise DtypeError(
            f"gram: expected planes on both sides or on none, got {type(x).__name__} and {type(y).__name__}. "
            "Use ntkla.Planes(...) for the other side."
        )
    if y is not None and x.shape[1] != y.shape[1]:
        raise ShapeError(f"gram: expected planes of as many features, got {x.shape[1]} and {y.shape[1]}.")
    if y is not None and x.device != y.device:
        raise DeviceError(f"gram: expected planes on one device, got {x.device} and {y.device}.")
    parts: list[torch.Tensor] = [] if y is None else list(y._parts)
    result: torch.Tensor = torch.ops.ntkla.gram_planes(list(x._parts), parts, checks.flag("bias", bias))
    return result


def gram_by_planes(x: torch.Tensor, y: torch.Tensor | None, bias: bool, fallen: list[int]) -> torch.Tensor:
    """The kernel's Gram matrix of float32 rows, planes made for this once; how many of each side's fell back."""
    sides = [kernels.split_by_kernel(side) for side in (x, y) if side is not None]
    fallen.extend(side[3].shape[0] for side in sides)
    return kernels.split_gram(sides[0], None if y is None else sides[1], bias)


def _float32(name: str, x: object) -> None:
    tensor = primitive_input("x", x)
    if tensor.dtype != torch.float32:
        instead = "their own precision is exact on tensor cores" if tensor.dtype.itemsize == 2 else "planes lose bits"
        raise DtypeError(f"{name}: expected float32, got {tensor.dtype}. Use gram(x) without planes: {instead}.")


@torch.library.custom_op("ntkla::gram_planes", mutates_args=())
def _gram_planes(x: list[torch.Tensor], y: list[torch.Tensor], bias: bool) -> torch.Tensor:
    right = y or x
    n, m, features = x[0].shape[0], right[0].shape[0], x[4].shape[1]
    call = Call("gram", x[4], features, "split", work=float(n) * m * features, symmetric=not y)

    def dense() -> tuple[torch.Tensor, torch.Tensor | None]:
        return kernels.restored(x), kernels.restored(y) if y else None

    def body() -> torch.Tensor:
        with backend("torch"):
            result: torch.Tensor = torch.ops.ntkla.gram(*dense(), bias, "ieee")
        return result

    result = run(
        call,
        kernel=lambda: kernels.split_gram(x, y or None, bias),
        body=body,
        working=torch.float32,
        reference=lambda v: gram_reference(*dense(), bias, "split")(v),
    )
    add_to_record(call, "+ieee" if x[3].shape[0] + (y[3].shape[0] if y else 0) else "")
    return result


@_gram_planes.register_fake
def _(x: list[torch.Tensor], y: list[torch.Tensor], bias: bool) -> torch.Tensor:
    return x[4].new_empty((x[0].shape[0], (y or x)[0].shape[0]))
