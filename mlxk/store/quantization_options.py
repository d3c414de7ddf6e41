"""What `mlxk convert` can be asked for. Checked before anything is loaded; pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from mlxk.store.hub_errors import OperationError
from mlxk.store.weight_formats import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES

MODES = ("affine", *FIXED_MODES)
DTYPES = ("float16", "bfloat16", "float32")
_DEFAULT_BITS = 4
_DEFAULT_GROUP = 64


@dataclass(frozen=True, slots=True)
class Conversion:
    """What becomes of the weights. Neither quantize nor dequantize: only their precision, if that."""

    mode: str | None = None
    """None: they are not quantized."""
    bits: int | None = None
    group_size: int | None = None
    dtype: str | None = None
    dequantize: bool = False

    def as_data(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def label(self) -> str:
        """What is added to the name of the model."""
        if self.dequantize:
            return self.dtype or "dequantized"
        if self.mode is None:
            return self.dtype or "mlx"
        if self.mode != "affine":
            return self.mode
        group = "" if self.group_size == _DEFAULT_GROUP else f"-g{self.group_size}"
        return f"{self.bits}bit{group}"


def choose_conversion(
    *, mode: str | None, bits: int | None, group_size: int | None, dtype: str | None, dequantize: bool
) -> Conversion:
    """Raises OperationError `usage`, which says what there is instead."""
    if dequantize:
        if mode or bits or group_size:
            raise OperationError("usage", "--dequantize goes with --dtype only, not with --bits and the like")
        return Conversion(dtype=dtype, dequantize=True)
    if mode in FIXED_MODES:
        only_bits, only_group = FIXED_MODES[mode]
        if bits not in (None, only_bits) or group_size not in (None, only_group):
            raise OperationError(
                "usage", f"{mode} is always {only_bits} bits in groups of {only_group}: leave the others out"
            )
        return Conversion(mode, only_bits, only_group, dtype)
    if mode is None and bits is None and group_size is None and dtype is not None:
        return Conversion(dtype=dtype)
    bits = _DEFAULT_BITS if bits is None else bits
    group_size = _DEFAULT_GROUP if group_size is None else group_size
    if bits not in AFFINE_BITS:
        raise OperationError("usage", f"MLX quantizes to {_listed(AFFINE_BITS)} bits, not to {bits}")
    if group_size not in AFFINE_GROUPS:
        raise OperationError("usage", f"MLX has groups of {_listed(AFFINE_GROUPS)}, not of {group_size}")
    return Conversion("affine", bits, group_size, dtype)


def estimated_bytes(conversion: Conversion, source_bytes: int, source_bits: float) -> int:
    """About what the result takes on the disk. `source_bits`: bits of one weight now."""
    if conversion.bits is not None and conversion.group_size is not None:
        # Of affine a scale and a bias of 16 bits for each group; of the others less.
        target_bits = conversion.bits + 32 / conversion.group_size
    else:
        target_bits = 32.0 if conversion.dtype == "float32" else 16.0
    return round(source_bytes * target_bits / source_bits)


def _listed(values: Any) -> str:
    words = [str(value) for value in sorted(values)]
    return f"{', '.join(words[:-1])} or {words[-1]}"
