"""Triton kernels and their launchers; `ntkla.linalg.kernels` is their only user.

    available.py   whether Triton is new enough, and what its compiler raises
    tiles.py   what the kernels share: pinned tiles, what fits a device, which tile a program computes
    gram.py    x x^T and x y^T
    normal_matmul.py   the one-pass normal product
    layer_ntk.py   the products of layer factors; layer_kernel.py its kernel, layer_tiles.py its tiles and its rounding

Importing this package imports torch and triton, and nothing of ntkla.  Each kernel module holds the kernel, the
launcher, `variants()` (all its pinned configurations), and its error bound with the derivation from the order in which
the kernel computes.

Verification, none of which needs a GPU: Triton's interpreter runs the kernels on CPU tensors (set TRITON_INTERPRET=1
before triton is imported), and ahead-of-time compilation for real targets shows registers, spills, shared memory and
matrix instructions.  Tests marked `gpu` repeat the first on the device.

Determinism: each entry of a result is written by one program that adds in a fixed order, without atomics.  Tiles
are pinned, never tuned at run time: same inputs (strides included), device model and versions give the same bits.
"""
