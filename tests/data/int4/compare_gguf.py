#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares dartquant_quantize_q4_0 and _q8_0 with the quantizers of the Python package gguf, block by block.

Usage: python3 compare_gguf.py path/to/libdartquant_kernels.so     (pip install gguf; build with BUILD_SHARED_LIBS)
Exits with 1 if any block differs, apart from the sign of d where an all-zero block begins with -0.
"""
import ctypes
import sys

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

library = ctypes.CDLL(sys.argv[1])


class Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("type", ctypes.c_int), ("rows", ctypes.c_int64),
                ("cols", ctypes.c_int64), ("stride", ctypes.c_int64)]


def ours(x, name, size):
    blocks = np.zeros((len(x), size), np.uint8)
    call = getattr(library, "dartquant_quantize_" + name)
    call.argtypes = [ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3
    call(ctypes.byref(Matrix(x.ctypes.data, 0, len(x), 32, 32)), blocks.ctypes.data, 1, 0, 1)
    return blocks


random = np.random.default_rng(7)
COUNT = 200000


def normal(low, high):
    return random.standard_normal((COUNT, 32)) * 2.0 ** random.integers(low, high, (COUNT, 1))


ties = random.integers(-16, 17, (COUNT, 32)) / 2 * random.uniform(0.5, 2, (COUNT, 1))
holes = random.standard_normal((COUNT, 32)) * (random.random((COUNT, 32)) < 0.5)
holes[::7] = 0
sets = {
    "normal": normal(-20, 15),
    "integers -8..8": random.integers(-8, 9, (COUNT, 32)),
    "steps of 1/2 up to 127": random.integers(-254, 255, (COUNT, 32)) / 2,
    "ties": ties,
    "next to ties": np.nextafter(ties.astype(np.float32), random.choice([-9, 9], (COUNT, 32)).astype(np.float32)),
    "with zeros": holes + 0.0,  # no -0
    "d subnormal or 0 in float16": normal(-60, -14),
    "d infinite in float16": normal(15, 100),
}
failed = False
for label, x in sets.items():
    x = np.ascontiguousarray(x.astype(np.float32))
    for name, size, kind in (("q4_0", 18, GGMLQuantizationType.Q4_0), ("q8_0", 34, GGMLQuantizationType.Q8_0)):
        with np.errstate(all="ignore"):
            theirs = quantize(x, kind).reshape(len(x), size)
        different = int((ours(x, name, size) != theirs).any(axis=1).sum())
        failed = failed or different > 0
        print(f"{label:28s} {name}: {different} of {len(x)} blocks differ")
sys.exit(failed)
