"""The only door to the Triton kernels: the launchers, and why one cannot run here.

Nothing of `csrc_triton`, and so of Triton, is imported before a kernel is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntkla.linalg.design import widened
from ntkla.linalg.precision import flushes_subnormals

_MOST_COLUMNS = 65_535


def why_not(primitive: str, device: torch.device, features: int, mode: str = "") -> str | None:
    """A clause that says why the kernel of `primitive` cannot run, on this device or anywhere; None when it can."""
    try:
        from csrc_triton.available import too_old
    except ImportError as error:
        return f"Triton cannot be imported ({error}): pip install 'triton>=3.6'"
    old = too_old()
    if old is not None:
        return f"{old}: pip install --upgrade triton"
    from csrc_triton.tiles import INTERPRETED

    if not INTERPRETED.value and device.type != "cuda":
        return (
            f"the arrays lie on '{device.type}', where Triton runs in its interpreter only: "
            "set TRITON_INTERPRET=1 before triton is imported"
        )
    if INTERPRETED.value and device.type != "cpu":
        return f"Triton's interpreter takes arrays on 'cpu' only, got '{device.type}': unset TRITON_INTERPRET"
    if mode == "split" and device.type == "cuda":
        from csrc_triton.planes import reads_subnormals
        from csrc_triton.tiles import architecture

        if not reads_subnormals(architecture(device)):
            return f"the matrix units of {architecture(device)} flush the small numbers of half-precision planes"
    return _limit(primitive, features)


def _limit(primitive: str, features: int) -> str | None:
    from csrc_triton.normal_blocks import MOST_FEATURES

    if primitive == "normal_matmul" and features > MOST_FEATURES:
        return f"its kernel takes at most {MOST_FEATURES} features, got {features}"
    return None


def compiler_failed(error: Exception) -> bool:
    """True when a kernel did not compile or could not be launched; False for other faults, which are ours."""
    from csrc_triton import available

    return available.compiler_failed(error)


def _kept(x: torch.Tensor, mode: str) -> torch.Tensor:
    """x, widened where the kernel would lose its subnormal numbers.

    Mode "float64" must not, and Triton's interpreter flushes what the processor does.
    """
    flushed = mode == "float64" and x.dtype != torch.float64 and x.device.type == "cpu" and flushes_subnormals()
    return widened(x) if flushed else x


def gram(x: torch.Tensor, y: torch.Tensor | None, bias: bool, mode: str) -> torch.Tensor:
    """`csrc_triton.gram`; 16-bit inputs are widened, exactly, for mode "ieee"."""
    from csrc_triton.gram import MODES
    from csrc_triton.gram import gram as launch

    x, y = _kept(x, mode), None if y is None else _kept(y, mode)
    if x.dtype not in MODES[mode]:
        x, y = x.float(), None if y is None else y.float()
    return launch(x, y, bias=bias, mode=mode)


def split(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`csrc_triton.planes.split`, which takes no Triton: planes, exponents, which rows fell back, and those rows."""
    from csrc_triton.planes import split as launch

    return tuple(launch(x))


def split_by_kernel(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """`csrc_triton.planes_kernel.split_rows`: the same bits, by a kernel on CUDA devices."""
    from csrc_triton.planes_kernel import split_rows as launch

    return tuple(launch(x))


def restored(planes: Sequence[torch.Tensor]) -> torch.Tensor:
    """`csrc_triton.planes.restored`: the numbers that planes hold."""
    from csrc_triton.planes import RowPlanes
    from csrc_triton.planes import restored as launch

    return launch(RowPlanes(*planes))


def split_gram(x: Sequence[torch.Tensor], y: Sequence[torch.Tensor] | None, bias: bool) -> torch.Tensor:
    """`csrc_triton.split_gram` of what `split` made."""
    from csrc_triton.planes import RowPlanes
    from csrc_triton.split_gram import split_gram as launch

    return launch(RowPlanes(*x), None if y is None else RowPlanes(*y), bias=bias)


def normal_matmul(
    x: torch.Tensor, w: torch.Tensor, weights: torch.Tensor | None, bias: bool, mode: str
) -> torch.Tensor:
    """`csrc_triton.normal_matmul`."""
    from csrc_triton.normal_matmul import normal_matmul as launch

    x, w, weights = _kept(x, mode), _kept(w, mode), None if weights is None else _kept(weights, mode)
    return launch(x, w, weights=weights, bias=bias, mode=mode)


def layer_ntk(sides: Sequence[Sequence[torch.Tensor]], mode: str) -> torch.Tensor:
    """`csrc_triton.layer_ntk` of the lists a, d, a2, d2, masks and masks2; 16-bit factors are widened for "ieee"."""
    from csrc_triton.gram import MODES
    from csrc_triton.layer_ntk import layer_ntk as launch

    *factors, masks, masks2 = sides
    kept = [[_kept(x, mode) for x in part] for part in factors]
    a, d, a2, d2 = ([x if x.dtype in MODES[mode] else x.float() for x in part] for part in kept)
    return launch(a, d, a2, d2, masks, masks2, mode=mode)


def split_layer(sides: Sequence[Sequence[torch.Tensor]]) -> tuple[torch.Tensor, int]:
    """`csrc_triton.split_layer` of the same lists, float32, and how many samples fell back."""
    from csrc_triton.split_layer import split_layer as launch

    return launch(*sides)


def integer_limits() -> tuple[int, int]:
    """Levels that one launch of the integer kernel takes, and what the rows of its planes have a multiple of."""
    from csrc_triton.integer_gram import LEVELS, PADDING

    return LEVELS, PADDING


def integer_gram(
    x: torch.Tensor, y: torch.Tensor | None, levels: Sequence[Sequence[tuple[int, int]]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """`csrc_triton.integer_gram`: the sum of a window of levels of pairs of int8 planes, as two int64 matrices."""
    from csrc_triton.integer_gram import integer_gram as launch

    return launch(x, y, levels)


def softmax_gram(
    x: torch.Tensor, roots: torch.Tensor, top: torch.Tensor, v: torch.Tensor, bias: bool, mode: str
) -> torch.Tensor:
    """`csrc_triton.softmax_gram`; 16-bit features are widened, exactly, for mode "ieee"."""
    from csrc_triton.softmax_gram import softmax_gram as launch
    from csrc_triton.softmax_tiles import MODES

    x, v = _kept(x, mode), _kept(v, mode)
    x = x if x.dtype in MODES[mode] else x.float()
    # A launch takes no more columns side by side than its grid can count.
    parts = [launch(x, roots, top, part, bias=bias, mode=mode) for part in torch.split(v, _MOST_COLUMNS, 2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def drift(
    x: torch.Tensor,
    high: torch.Tensor,
    low: torch.Tensor | None,
    errors: Sequence[torch.Tensor],
    bias: bool,
    centre: tuple[torch.Tensor, torch.Tensor | float] | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`csrc_triton.drift`: value, bound, norms and distances; `centre` with what distances are off by."""
    from csrc_triton.drift import drift as launch

    place, beside = (None, None) if centre is None else centre
    beside = None if beside is None else torch.as_tensor(beside, dtype=torch.float64, device=x.device)
    update, rounding, constant = errors
    return launch(_kept(x, "float64"), high, low, update, rounding, constant, bias=bias, centre=place, beside=beside)


def drift_summary(
    x: torch.Tensor,
    high: torch.Tensor,
    errors: Sequence[torch.Tensor],
    bias: bool,
    known: tuple[torch.Tensor, torch.Tensor] | None,
    labels: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`csrc_triton.drift_summary`: sums of squares of rows and columns, and flags where outputs are known."""
    from csrc_triton.drift_summary import drift_summary as launch

    before, bound = (None, None) if known is None else known
    return launch(_kept(x, "float64"), high, *errors, bias=bias, before=before, before_bound=bound, labels=labels)
