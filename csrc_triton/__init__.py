"""Triton kernels and their launchers; `ntkla.linalg.backends.kernels` is their only user.

    available.py   whether Triton is new enough, and what its compiler raises
    tiles.py   what the kernels share: pinned tiles, what fits a device, which tile a program computes
    rows.py   how features are brought into a form that the kernels read without spilling registers
    gram.py    x x^T and x y^T
    integer_gram.py   exact sums of products of int8 planes
    planes.py   float32 rows as two planes of float16, and which rows cannot be
    planes_kernel.py   the same planes by a kernel
    split_gram.py   x x^T and x y^T of such planes, as accurate as float32; split_kernel.py its kernel
    normal_matmul.py   the one-pass normal product
    softmax_gram.py   the product with a softmax head's kernel; softmax_kernels.py its kernels, softmax_tiles.py its
        tiles and its rounding
    drift.py   what a change of a head does, with its bound in the same pass; drift_kernels.py its kernels
    drift_summary.py   norms and flips of the same without an array of drifts
    split_layer.py   layer factors as such planes; split_layer_kernel.py its kernel
    layer_ntk.py   the products of layer factors; layer_kernel.py its kernel, layer_tiles.py its tiles and its rounding

Importing this package imports torch and triton, and nothing of ntkla.  Each kernel module holds the kernel, the
launcher, `variants()` (all its pinned configurations), and its error bound with the derivation from the order in which
the kernel computes.

Verification, none of which needs a GPU: Triton's interpreter runs the kernels on CPU tensors (set TRITON_INTERPRET=1
before triton is imported), and ahead-of-time compilation for real targets shows registers, spills, shared memory and
matrix instructions.  Tests marked `gpu` repeat the first on the device.

Compiler hazards met (Triton 3.6.0 and 3.9.0; each is avoided where it is named, and caught by compiling ahead of time):
    - 3.6.0's compiler crashes where 16-bit loads feed the float64 matrix instruction: `rows.loaded_dtype`.  It has also
      crashed on some masks of float64 operands' loads; those of the pinned variants compile.
    - "ieee" products of a 128 x 128 tile take all 255 registers at a depth of 16, and a depth of 32 spills.  Masks of
      single features and strides that are no multiples of 16 spill too, "bf16" with them on gfx942: `rows.padded`.
    - Left to itself, ptxas may stop at 128 or 168 registers and spill the rest: `tiles.options`.
    - Places in a tile in 64 bits cost two registers each: 32 bits where the size of the matrix allows it.
    - Whether 16-bit or float64 variants spill changes with warps and stages, and from one Triton to the next.
    - 3.9.0 does not fuse all multiplications with additions on sm_100 (FMUL, FADD2), and takes a smaller DMMA.
    - Two products through one accumulator miscompile on sm_100 (triton issue 10821): none here does that.

Determinism: each entry of a result is written by one program that adds in a fixed order, without atomics.  Tiles
are pinned, never tuned at run time: same inputs (strides included), device model and versions give the same bits.
"""
