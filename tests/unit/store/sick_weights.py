"""What can be wrong with weights, their shards and the index of them."""

from __future__ import annotations

import struct

from tests.unit.store.damage import (
    CONVERT,
    INDEX,
    INDEX_REPAIR,
    LFS_POINTER,
    PULL,
    WEIGHTS,
    D,
    Sickness,
    U,
    W,
    change_header,
    change_index,
    dangle,
    first,
    foreign_index,
    hole,
    move_tensor_in_index,
    overlap,
    replace_bytes,
    shard,
    write_safetensors,
)

SICK_WEIGHTS: dict[str, Sickness] = {
    # ---- weights
    "no weights": Sickness("no_weights", D, lambda m: (m / WEIGHTS).unlink(), "it has no weights", PULL),
    "empty weights": Sickness(
        "empty_file", D, lambda m: replace_bytes(m / WEIGHTS, b""), f"{WEIGHTS} is empty (0 bytes)", PULL
    ),
    "four bytes of weights": Sickness(
        "truncated", D, lambda m: replace_bytes(m / WEIGHTS, b"1234"), "is only 4 bytes long", PULL
    ),
    "cut header": Sickness(
        "truncated",
        D,
        lambda m: replace_bytes(m / WEIGHTS, (m / WEIGHTS).read_bytes()[:300]),
        "ends inside its header",
        PULL,
    ),
    "cut data": Sickness(
        "truncated",
        D,
        lambda m: replace_bytes(m / WEIGHTS, (m / WEIGHTS).read_bytes()[:-1]),
        f"{WEIGHTS} is cut off: ",
        PULL,
    ),
    "too long": Sickness(
        "too_long",
        D,
        lambda m: replace_bytes(m / WEIGHTS, (m / WEIGHTS).read_bytes() + b"!"),
        "is longer than its header says",
        PULL,
    ),
    "pointer as weights": Sickness(
        "lfs_pointer",
        D,
        lambda m: replace_bytes(m / WEIGHTS, LFS_POINTER),
        f"{WEIGHTS} is a Git LFS pointer",
        PULL,
    ),
    "dangling weights": Sickness(
        "partial_download",
        D,
        lambda m: dangle(m / WEIGHTS),
        f"{WEIGHTS} is not in the cache: its download did not finish",
        PULL,
    ),
    "header is no JSON": Sickness(
        "bad_header",
        D,
        lambda m: write_safetensors(m / WEIGHTS, b"{{{}", b""),
        "its header cannot be read",
        PULL,
    ),
    "header is a list": Sickness(
        "bad_header",
        D,
        lambda m: write_safetensors(m / WEIGHTS, b"[1]", b""),
        "its header cannot be read",
        PULL,
    ),
    "header without offsets": Sickness(
        "bad_header",
        D,
        lambda m: write_safetensors(m / WEIGHTS, {"w": {}}, b""),
        "its header cannot be read at 'w'",
        PULL,
    ),
    "absurd header length": Sickness(
        "bad_header",
        D,
        lambda m: replace_bytes(m / WEIGHTS, struct.pack("<Q", 2**63) + b"{}"),
        "impossible length",
        PULL,
    ),
    "shape and bytes differ": Sickness(
        "bad_offsets",
        D,
        lambda m: change_header(m, lambda h: first(h)["shape"].append(2)),
        "contradicts itself: the tensor",
        PULL,
    ),
    "overlapping tensors": Sickness("bad_offsets", D, lambda m: change_header(m, overlap), "overlap", PULL),
    "hole between tensors": Sickness("bad_offsets", D, hole, "there is a hole of 64 bytes", PULL),
    "numbers MLX cannot read": Sickness(
        "unreadable_type",
        U,
        lambda m: write_safetensors(
            m / WEIGHTS, {"w": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, bytes(8)
        ),
        "numbers of type F64, which MLX cannot read",
        "MLX format",
    ),
    "other weight names": Sickness(
        "weight_names",
        U,
        lambda m: (m / WEIGHTS).rename(m / "consolidated.safetensors"),
        "reads only weights named model*.safetensors",
        CONVERT,
    ),
    # ---- shards and their index
    "lost shard": Sickness(
        "missing_shard",
        D,
        lambda m: shard(m, 3)[1].unlink(),
        "model-00002-of-00003.safetensors of 3 weight files is missing",
        PULL,
    ),
    "lost shards without index": Sickness(
        "missing_shard",
        D,
        lambda m: ([one.unlink() for one in shard(m, 3)[:2]], (m / INDEX).unlink()),
        "model-00001-of-00003.safetensors and 1 more of 3 weight files are missing",
        PULL,
    ),
    "index of another model": Sickness(
        "missing_shard",
        D,
        foreign_index,
        "model-00001-of-00002.safetensors and 1 more of 2 weight files are missing",
        INDEX_REPAIR,
    ),
    "dangling shard": Sickness(
        "partial_download", D, lambda m: dangle(shard(m)[1]), "is not in the cache: its download", PULL
    ),
    "tensor missing from its shard": Sickness(
        "missing_tensor",
        D,
        lambda m: change_index(
            m, lambda i: i["weight_map"].update({"lost.weight": "model-00001-of-00002.safetensors"})
        ),
        "the tensor 'lost.weight' is not in model-00001-of-00002.safetensors",
        PULL,
    ),
    "cut index": Sickness(
        "bad_json", D, lambda m: (shard(m), replace_bytes(m / INDEX, "{")), f"{INDEX} is not valid", PULL
    ),
    "index without a map": Sickness(
        "bad_index",
        D,
        lambda m: (shard(m), replace_bytes(m / INDEX, "{}")),
        "holds no weight_map",
        INDEX_REPAIR,
    ),
    "tensor in another shard": Sickness(
        "misplaced_tensor",
        W,
        lambda m: change_index(m, move_tensor_in_index),
        "but in another weight file",
        INDEX_REPAIR,
    ),
    "tensor in no index": Sickness(
        "unlisted_tensor",
        W,
        lambda m: change_index(m, lambda i: i["weight_map"].pop(sorted(i["weight_map"])[0])),
        "is not complete",
        INDEX_REPAIR,
    ),
    "wrong total size": Sickness(
        "wrong_total_size",
        W,
        lambda m: change_index(m, lambda i: i["metadata"].update(total_size=1)),
        "says that the weights are 1 bytes in all",
        INDEX_REPAIR,
    ),
    "no index": Sickness(
        "missing_index",
        W,
        lambda m: (shard(m), (m / INDEX).unlink()),
        f"there is no {INDEX}",
        INDEX_REPAIR,
    ),
}
