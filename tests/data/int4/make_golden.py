#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the golden bytes of docs/int4_format.md next to this file: python3 make_golden.py (needs numpy).

Independent of the library: inputs and formats are the formulas of that page, written with numpy.
"""
import pathlib
import struct

import numpy as np

OUT, IN, GROUP = 24, 80, 32  # the last group has 16 channels
i = np.arange(OUT)[:, None]
j = np.arange(IN)[None, :]
codes4 = (7 * i + 3 * j + (i * j) % 5) % 16  # unsigned; a symmetric level is code - 8
codes8 = (31 * i + 17 * j) % 256  # unsigned; a symmetric level is code - 128


def groups_of(group):
    return -(-IN // group)


def scales_of(group):
    g = np.arange(groups_of(group))[None, :]
    return ((3 + i + 5 * g) / 1000).astype(np.float32)


def zeros_of(group, bits):
    g = np.arange(groups_of(group))[None, :]
    return (5 * i + 3 * g) % 16 if bits == 4 else (50 * i + 3 * g) % 256


def save(name, sections):
    """Lines `name = hex`, 32 bytes each; lines after the first are indented."""
    text = ""
    for key, data in sections.items():
        data = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        rows = [data[k : k + 32].hex(" ") for k in range(0, len(data), 32)]
        text += f"{key} = " + "\n  ".join(rows) + "\n"
    (pathlib.Path(__file__).parent / f"{name}.golden").write_text(text)


def nibbles(levels):
    """Two per byte along the last axis, the even one low."""
    levels = levels & 15
    if levels.shape[-1] % 2:
        levels = np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=-1)
    return (levels[..., 0::2] | levels[..., 1::2] << 4).astype(np.uint8)


def words(codes, bits, order=None):
    """int32 words along the last axis, the first code in the lowest bits, zeros behind the last."""
    per = 32 // bits
    pad = -codes.shape[-1] % per
    codes = np.concatenate([codes, np.zeros(codes.shape[:-1] + (pad,), int)], axis=-1)
    codes = codes.reshape(codes.shape[:-1] + (-1, per))
    if order is not None:
        codes = codes[..., order]
    return (codes.astype(np.uint64) << (np.arange(per, dtype=np.uint64) * bits)).sum(-1).astype("<u4")


def layout(symmetric, with_sums):
    """Layout id 1: header, panels of 16 outputs, zero points, sums."""
    groups, panels = groups_of(GROUP), -(-OUT // 16)
    scales, zeros = scales_of(GROUP), zeros_of(GROUP, 4)
    body, zero_section, sum_section = b"", b"", b""
    for p in range(panels):
        for g in range(groups):
            first, last = g * GROUP, min((g + 1) * GROUP, IN)
            lines = -(-(last - first) // 8)
            zero = np.array([(8 if symmetric else int(zeros[o, g])) if o < OUT else (8 if symmetric else 0)
                             for o in range(16 * p, 16 * p + 16)])
            block = np.tile(zero[:, None], (1, 8 * lines))
            for c in range(16):
                if 16 * p + c < OUT:
                    block[c, : last - first] = codes4[16 * p + c, first:last]
            for s in range(lines):
                eight = block[:, 8 * s : 8 * s + 8]
                body += (eight[:, :4] | eight[:, 4:] << 4).astype(np.uint8).tobytes()
            scale = np.zeros(16, np.float32)
            real = min(16, OUT - 16 * p)
            scale[:real] = scales[16 * p : 16 * p + real, g]
            body += scale.tobytes()
            zero_section += zero.astype(np.uint8).tobytes()
            sum_section += (block - zero[:, None]).sum(1).astype("<i4").tobytes()
    zero_section = b"" if symmetric else zero_section + bytes(-len(zero_section) % 64)
    data = body + zero_section + (sum_section if with_sums else b"")
    header = struct.pack("<IIqqqIIQ16x", 0x34575144, 1, OUT, IN, GROUP, 0 if symmetric else 1, with_sums,
                         64 + len(data))
    return header + data


ROWS, COLS = 5, 96  # of the values that are quantized to blocks
r = np.arange(ROWS)[:, None]
k = np.arange(COLS)[None, :]
values = (((37 * r + 101 * k + 11 * r * k) % 513 - 256) * 2.0 ** (4 * r - 12)).astype(np.float32)
values[3] = 0


def ggml():
    x = values.reshape(-1, 32)
    with np.errstate(divide="ignore"):
        m = np.where(np.abs(x).max(1) > 0, x[np.arange(len(x)), np.abs(x).argmax(1)], np.float32(0))
        d4 = m / np.float32(-8)
        id4 = np.where(d4 == 0, np.float32(0), np.float32(1) / d4)
        d8 = np.abs(x).max(1) / np.float32(127)
        id8 = np.where(d8 == 0, np.float32(0), np.float32(1) / d8)
    q4 = np.minimum(15, np.trunc(x * id4[:, None] + np.float32(8.5)).astype(int))
    quotient = x * id8[:, None]
    q8 = (np.sign(quotient) * np.floor(np.abs(quotient).astype(np.float64) + 0.5)).astype(np.int8)
    blocks4 = b"".join(struct.pack("<e", d) + (q[:16] | q[16:] << 4).astype(np.uint8).tobytes()
                       for d, q in zip(d4, q4))
    blocks8 = b"".join(struct.pack("<e", d) + q.tobytes() for d, q in zip(d8, q8))
    # Blocks of the quantized matrix: its first 64 channels, two groups of 32.
    half = scales_of(32).astype(np.float16)
    packed4 = b"".join(half[o, g].tobytes() + (c[:16] | c[16:] << 4).astype(np.uint8).tobytes()
                       for o in range(OUT) for g in range(2) for c in [codes4[o, 32 * g : 32 * g + 32]])
    packed8 = b"".join(half[o, g].tobytes() + (codes8[o, 32 * g : 32 * g + 32] - 128).astype(np.int8).tobytes()
                       for o in range(OUT) for g in range(2))
    return {"q4_0": blocks4, "q8_0": blocks8, "to_q4_0": packed4, "to_q8_0": packed8}


def bfloat16(x):
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


AWQ_ORDER, AWQ_GROUP = [0, 2, 4, 6, 1, 3, 5, 7], 16
zeros4, zeros8 = zeros_of(GROUP, 4), zeros_of(GROUP, 8)
save("plain", {"symmetric4": nibbles(codes4 - 8), "asymmetric4": nibbles(codes4),
               "symmetric8": (codes8 - 128).astype(np.int8), "asymmetric8": codes8.astype(np.uint8),
               "scales": scales_of(GROUP)})
save("layout1", {"symmetric": layout(True, 0), "symmetric_sums": layout(True, 1),
                 "asymmetric": layout(False, 0), "asymmetric_sums": layout(False, 1)})
save("ggml", ggml())
save("compressed_tensors", {"packed4": words(codes4, 4), "packed8": words(codes8, 8),
                            "scale_float16": scales_of(GROUP).astype(np.float16),
                            "scale_bfloat16": bfloat16(scales_of(GROUP)),
                            "zero_point4": words(zeros4.T, 4).T, "zero_point8": words(zeros8.T, 8).T})
save("gptq", {"qweight": words(codes4, 4).T, "qzeros_v1": words((zeros4.T - 1) & 15, 4),
              "qzeros_v2": words(zeros4.T, 4), "qzeros_symmetric_v1": words(np.full_like(zeros4.T, 7), 4),
              "scales": scales_of(GROUP).T.astype(np.float16),
              "g_idx": (np.arange(IN) // GROUP).astype("<i4")})
save("awq", {"qweight": words(codes4.T, 4, AWQ_ORDER), "qzeros": words(zeros_of(AWQ_GROUP, 4).T, 4, AWQ_ORDER),
             "scales": scales_of(AWQ_GROUP).T.astype(np.float16)})
