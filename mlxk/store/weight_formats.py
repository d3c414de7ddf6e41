"""How the weights are packed: which of MLX's modes, how many bits, and how many parameters that is.

Pure functions of what the headers and config.json say. The packings are those of MLX (`mlx.core.quantize`)
and those foreign ones that `mlx_lm.utils.load_model` takes in: AWQ, GPTQ, compressed-tensors, OpenAI's mxfp4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from mlxk.store.tensor_table import Tensor


AFFINE_BITS = (1, 2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
FIXED_MODES = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
"""Mode -> its only (bits, group size)."""
SINCE_MLX = {"mxfp4": "0.29.0", "nvfp4": "0.29.4", "mxfp8": "0.29.4"}
"""The first MLX with that mode; tried with the released packages (docs/decisions/0022-model-health.md)."""

PRECISIONS = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8",
    "F8_E5M2": "f8",
    "F8_E8M0": "f8",
    "F4": "f4",
}
_SCALES_OF_OTHERS = (
    "_scales",
    ".qzeros",
    ".g_idx",
    ".weight_g_idx",
    ".weight_shape",
    ".weight_scale",
    ".weight_scale_2",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".weight_global_scale",
    ".global_scale",
    ".input_scale",
    ".input_global_scale",
)
"""Tensors beside a packed one, which are no parameters of the model."""
_PARTS_OF_MLX = (".scales", ".biases", ".global_scale")
_NEVER_PACKED = frozenset(("BF16", "F16", "F32"))


class Packing(NamedTuple):
    """How one tensor's values are stored."""

    mode: str
    """"affine", "mxfp4", "nvfp4", "mxfp8"; "awq" and other foreign methods; "" for plain numbers."""
    bits: int
    group_size: int
    """0: not in groups."""
    precision: str = ""
    """Of plain numbers: "bf16", "f16", …"""

    @property
    def label(self) -> str:
        """ "int4", "mxfp4", "bf16", …"""
        if not self.mode:
            return self.precision
        return self.mode if self.mode in FIXED_MODES else f"int{self.bits}"


@dataclass(slots=True)
class Share:
    """What is stored in one way."""

    n_tensors: int = 0
    n_parameters: int = 0
    n_bytes: int = 0
    """Scales and biases included."""


@dataclass(slots=True)
class Contents:
    """All weights of a model, by packing."""

    shares: dict[Packing, Share] = field(default_factory=dict)
    contradictions: list[str] = field(default_factory=list)
    """Quantized tensors whose shapes fit no packing."""

    @property
    def n_parameters(self) -> int:
        return sum(share.n_parameters for share in self.shares.values())

    @property
    def n_bytes(self) -> int:
        return sum(share.n_bytes for share in self.shares.values())

    @property
    def bits_per_weight(self) -> float | None:
        """Of all weights together, scales and biases included."""
        return self.n_bytes * 8 / self.n_parameters if self.n_parameters else None

    def main_packing(self) -> Packing | None:
        """Of most parameters; of the quantized ones, if there are any."""
        candidates = [packing for packing in self.shares if packing.mode] or list(self.shares)
        return max(candidates, key=lambda packing: self.shares[packing].n_parameters, default=None)


def contents(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Contents:
    """What `tensors` (of all shards together) hold, unpacked."""
    found = Contents()
    done: set[str] = set()
    for name, suffix, packing in packed_tensors(tensors, config):
        parts = _parts(name, suffix, tensors)
        done.update((name, *parts))
        if packing is None:
            found.contradictions.append(name)
            packing = Packing("affine", 0, 0)
        n_parameters = _count(tensors[name], packing)
        _add(found, packing, n_parameters, sum(tensors[part].n_bytes for part in (name, *parts)))
    for name, tensor in tensors.items():
        if name not in done:
            packing = Packing("", 0, 0, PRECISIONS.get(tensor.dtype, tensor.dtype.lower()))
            is_scale = name.endswith(_SCALES_OF_OTHERS)
            _add(found, packing, 0 if is_scale else tensor.n_elements, tensor.n_bytes)
    return found


def packed_tensors(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any]
) -> Iterator[tuple[str, str, Packing | None]]:
    """Of each tensor that is not stored plainly: name, the end of it that says so, and packing (None: none
    fits the shapes)."""
    table, foreign = quantization_tables(config)
    known: _Known = {}
    for name, tensor in tensors.items():
        suffix = None if tensor.dtype in _NEVER_PACKED else _suffix(name, tensor, tensors, foreign)
        if suffix is not None:
            yield name, suffix, _packing(name, suffix, tensors, table, foreign, known)


def _parts(name: str, suffix: str, tensors: Mapping[str, Tensor]) -> list[str]:
    """The tensors that belong to a packed one."""
    prefix = name[: -len(suffix)]
    ends = _PARTS_OF_MLX if suffix == ".weight" else (".scales", *_SCALES_OF_OTHERS)
    return [part for end in ends if (part := prefix + end) in tensors]


def _add(found: Contents, packing: Packing, n_parameters: int, n_bytes: int) -> None:
    share = found.shares.setdefault(packing, Share())
    share.n_tensors += 1
    share.n_parameters += n_parameters
    share.n_bytes += n_bytes


def quantization_tables(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """MLX's own table, and that of a foreign format where there is no table of MLX's; {} for none."""
    text = config.get("text_config")
    sections = [config, text if isinstance(text, dict) else {}]
    for section in sections:
        table = section.get("quantization")
        if isinstance(table, dict) and table:
            return table, {}
    for section in sections:
        foreign = section.get("quantization_config")
        if isinstance(foreign, dict) and foreign:
            return (foreign, {}) if "bits" in foreign and "quant_method" not in foreign else ({}, foreign)
    return {}, {}


def _suffix(
    name: str, tensor: Tensor, tensors: Mapping[str, Tensor], foreign: Mapping[str, Any]
) -> str | None:
    """The end of a packed tensor's name; None if it is stored plainly."""
    if name.endswith(".weight") and tensor.dtype == "U32" and f"{name[:-7]}.scales" in tensors:
        return ".weight"
    if name.endswith(".qweight"):
        return ".qweight"
    if name.endswith(".weight_packed"):
        return ".weight_packed"
    if name.endswith("_blocks") and f"{name[:-7]}_scales" in tensors:
        return "_blocks"
    if foreign.get("quant_method") in ("bitnet", "modelopt") and tensor.dtype == "U8":
        return ".weight" if name.endswith(".weight") else None
    return None


def _packing(
    name: str,
    suffix: str,
    tensors: Mapping[str, Tensor],
    table: Mapping[str, Any],
    foreign: Mapping[str, Any],
    known: _Known,
) -> Packing | None:
    if suffix == "_blocks":
        return Packing("mxfp4", 4, 32)
    prefix = name[: -len(suffix)]
    scales = tensors.get(f"{prefix}.scales")
    if suffix == ".weight" and scales is not None:
        return _mlx_packing(table.get(prefix), tensors[name], scales, table, known)
    method = str(foreign.get("quant_method") or "packed")
    bits = _whole(foreign.get("bits")) or (2 if method == "bitnet" else 4)
    return Packing(method, bits, _whole(foreign.get("group_size")) or 0)


def _count(tensor: Tensor, packing: Packing) -> int:
    """Values in a packed tensor."""
    width = 32 if tensor.dtype in ("I32", "U32") else 8
    return tensor.n_elements * width // packing.bits if packing.bits else 0


_Known = dict[tuple[int, int, str], Packing | None]
"""Of widths of weight and scales and the type of the scales: the thousands of layers of a model are alike."""


def _mlx_packing(
    own: Any, weight: Tensor, scales: Tensor, table: Mapping[str, Any], known: _Known
) -> Packing | None:
    """The packing whose numbers fit both shapes: the layer's own, the model's, else any that fits."""
    if not weight.shape or not scales.shape:
        return None
    key = weight.shape[-1], scales.shape[-1], scales.dtype
    if own is not None:
        return _fitting(own, *key, table)
    if key not in known:
        known[key] = _fitting(None, *key, table)
    return known[key]


def _fitting(own: Any, width: int, n_groups: int, scales: str, table: Mapping[str, Any]) -> Packing | None:
    for mode, bits, group_size in _candidates(own, table, scales == "U8"):
        if width * 32 == n_groups * group_size * bits:
            return Packing(mode, bits, group_size)
    return None


def _candidates(own: Any, table: Mapping[str, Any], small_scales: bool) -> Iterator[tuple[str, int, int]]:
    for said in (own, table):
        if isinstance(said, Mapping):
            bits, group_size = _whole(said.get("bits")), _whole(said.get("group_size"))
            mode = said.get("mode", "affine")
            if bits and group_size and isinstance(mode, str):
                yield mode, bits, group_size
    if small_scales:
        for mode, (bits, group_size) in FIXED_MODES.items():
            yield mode, bits, group_size
    else:
        for group_size in (64, 32, 128):
            for bits in AFFINE_BITS:
                yield "affine", bits, group_size


def _whole(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None
