"""A first guess for the weights that can already copy.

Copying ("say what followed the last time") needs two attention heads in a row: one that looks at the
previous token, and one in the next layer that looks for a place whose previous token is the present one.
Training finds the pair only after far more text than a few CPU minutes allow (4 million tokens were not
enough), so we write it down and let training refine it. All other weights start at random. Nothing is frozen.

The residual stream at the start: dimensions 0-91 carry the token, 92-123 what the previous-token head found,
127 is the same for every token, so that a query can be made that does not depend on the token.
"""

from __future__ import annotations

import torch
from transformers import Qwen3ForCausalLM

HEAD, HALF = 32, 16  # head size; RoPE turns the pairs (i, i + HALF), the fast ones first
TOKEN, FOUND, CONSTANT = 92, 92, 127
FAST, SLOW = (0, 1, 2), range(8, 16)
SHARPNESS = 1.6  # of the query and key norms: a head that looks at one place needs large logits


@torch.no_grad()
def prime(model: Qwen3ForCausalLM) -> None:
    torch.nn.init.normal_(model.model.embed_tokens.weight[:, :TOKEN], std=0.05)
    model.model.embed_tokens.weight[:, TOKEN:] = 0.0
    model.model.embed_tokens.weight[:, CONSTANT] = 0.1
    for layer in model.model.layers:
        layer.self_attn.q_norm.weight.fill_(SHARPNESS)
        layer.self_attn.k_norm.weight.fill_(SHARPNESS)
    reading = torch.linalg.qr(torch.randn(TOKEN, HEAD))[0].T  # [32, 92], orthonormal rows
    look_back(model.model.layers[0].self_attn, reading, model.config.rope_parameters["rope_theta"])
    for head in (0, 1):
        look_up(model.model.layers[1].self_attn, reading[HALF * head : HALF * (head + 1)], head)


def look_back(attention: torch.nn.Module, reading: torch.Tensor, theta: float) -> None:
    """Query head 0: the key one position back fits best; its token is noted in the FOUND dimensions."""
    query, key = attention.q_proj.weight[:HEAD], attention.k_proj.weight[:HEAD]
    query.zero_()
    key.zero_()
    for pair in FAST:
        turn = torch.tensor(theta ** (-pair / HALF))
        query[pair, CONSTANT] = 1.0
        key[pair, CONSTANT], key[pair + HALF, CONSTANT] = torch.cos(turn), torch.sin(turn)
    value, output = attention.v_proj.weight[:HEAD], attention.o_proj.weight[:, :HEAD]
    value.zero_()
    value[:, :TOKEN] = reading
    output.zero_()
    output[FOUND : FOUND + HEAD] = 0.1 * torch.eye(HEAD)


def look_up(attention: torch.nn.Module, reading: torch.Tensor, head: int) -> None:
    """Key head `head`: fits where the token before was the present one; the token found there is said."""
    asking = 2 * head  # two query heads share a key head
    query = attention.q_proj.weight[HEAD * asking : HEAD * (asking + 1)]
    key = attention.k_proj.weight[HEAD * head : HEAD * (head + 1)]
    query.zero_()
    key.zero_()
    slots = [*SLOW, *(pair + HALF for pair in SLOW)]
    for row, slot in enumerate(slots):
        query[slot, :TOKEN] = reading[row]
        key[slot, FOUND + HALF * head + row] = 1.0
    value = attention.v_proj.weight[HEAD * head : HEAD * (head + 1)]
    output = attention.o_proj.weight[:, HEAD * asking : HEAD * (asking + 1)]
    value.zero_()
    value[:, HEAD * head : HEAD * (head + 1)] = torch.eye(HEAD)
    output.zero_()
    output[HEAD * head : HEAD * (head + 1)] = 0.15 * torch.eye(HEAD)
