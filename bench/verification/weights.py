"""Weights that a cheat would serve: the real model on coarser grids, with layers left out, or changed.

Each variant is a GGUF file of its own that llama.cpp runs as fast as the real one, kept under `.steelyard/`. The real
file is 4-bit already (Q4_1, blocks of 32); `q2` and `q3` put its dequantised matrices on grids of 4 and 8 values a
block, `q4` on Q4_0's, `q8` on Q8_0's (which is nearly the real thing). `pruned` leaves out a third of the layers,
`changed` adds Gaussian noise of 30 % of each matrix's deviation: another model under the same name.

    python bench/verification/weights.py            # makes all; needs numpy and gguf
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".steelyard" / "bench-weights"
VARIANTS = ("q2", "q3", "q4", "q8", "pruned", "changed")
LEFT_OUT = range(10, 20)
NOISE = 0.3
BLOCK = 32

Matrix = np.ndarray
Stored = tuple[np.ndarray, gguf.GGMLQuantizationType]


def make_variant(name: str, real: Path) -> Path:
    """Return the file of a variant, made from the real one if it isn't there yet."""
    path = FOLDER / f"{name}.gguf"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".part")
        _write(name, gguf.GGUFReader(real), fresh)
        fresh.rename(path)
    return path


def on_grid(values: Matrix, bits: int) -> Stored:
    """Put a matrix on an even grid of 2^bits values per block, from the least to the greatest; stored as Q4_1, which
    holds it exactly.
    """
    blocks = values.reshape(-1, BLOCK).astype(np.float32)
    least = blocks.min(axis=1, keepdims=True)
    step = (blocks.max(axis=1, keepdims=True) - least) / (2**bits - 1)
    codes = np.clip(np.round((blocks - least) / np.where(step == 0, 1, step)), 0, 2**bits - 1).astype(np.uint8)
    packed = codes[:, : BLOCK // 2] | (codes[:, BLOCK // 2 :] << 4)
    data = np.concatenate([step.astype(np.float16).view(np.uint8), least.astype(np.float16).view(np.uint8), packed], 1)
    return data.reshape(values.shape[0], -1), gguf.GGMLQuantizationType.Q4_1


def _as(kind: gguf.GGMLQuantizationType) -> Callable[[Matrix], Stored]:
    return lambda values: (gguf.quants.quantize(values, kind), kind)


def _change(values: Matrix) -> Stored:
    noise = np.random.default_rng(int(abs(values[0, 0]) * 1e9)).standard_normal(values.shape, dtype=np.float32)
    return on_grid(values + NOISE * values.std() * noise, 4)


RECIPES: dict[str, Callable[[Matrix], Stored]] = {
    "q2": lambda values: on_grid(values, 2),
    "q3": lambda values: on_grid(values, 3),
    "q4": _as(gguf.GGMLQuantizationType.Q4_0),
    "q8": _as(gguf.GGMLQuantizationType.Q8_0),
    "changed": _change,
}


def _write(name: str, reader: gguf.GGUFReader, path: Path) -> None:
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(path, architecture)
    left_out = {f"blk.{layer}." for layer in LEFT_OUT} if name == "pruned" else set()
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value, inner = field.contents(), field.types[-1] if len(field.types) > 1 else None
        if key == f"{architecture}.block_count":
            value -= len(left_out)
        writer.add_key_value(key, value, field.types[0], inner)
    for tensor in reader.tensors:
        prefix = ".".join(tensor.name.split(".")[:2]) + "."
        if prefix in left_out:
            continue
        data, kind = tensor.data, tensor.tensor_type
        if name in RECIPES and kind == gguf.GGMLQuantizationType.Q4_1:
            data, kind = RECIPES[name](gguf.quants.dequantize(tensor.data, kind))
        writer.add_tensor(_renumbered(tensor.name) if left_out else tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _renumbered(name: str) -> str:
    if not name.startswith("blk."):
        return name
    _, layer, rest = name.split(".", 2)
    return f"blk.{int(layer) - sum(number < int(layer) for number in LEFT_OUT)}.{rest}"


if __name__ == "__main__":
    for variant in VARIANTS:
        made = make_variant(variant, Path(sys.argv[1]))
        print(variant, made, made.stat().st_size)
