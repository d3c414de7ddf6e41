"""Train tiny from scratch on a CPU and save it as a Hugging Face checkpoint (Qwen3ForCausalLM).

`python train.py TOKENIZER_FOLDER CHECKPOINT`, then `python train.py CHECKPOINT NEXT --stage 2`, and so with
stage 3: they go on at lower rates with more of what is learnt last. Loss is taken on what the assistant says,
and on raw completions. A fixed seed and thread count give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

import torch
from dialogues import BROAD, HARD, LAST, SEED, Dialogue, Mix, dialogues
from priming import prime
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

Sample = tuple[list[int], list[bool]]

BATCH_TOKENS = 2048
POOL = 1500  # samples sorted by length at a time, so that a batch holds little padding
MUON_LR, ADAM_LR, LAST_PACE, WARMUP = 6e-3, 3e-3, 0.01, 60
SKIP_RATE, SKIP_LIMIT = 0.15, 2000
IGNORED = -100


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    """About 0.87 M parameters."""
    ends = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=8192,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        eos_token_id=ends,
        pad_token_id=ends[1],
        bos_token_id=None,
        use_cache=True,
    )


class Encoder:
    """Turns dialogues into token ids and the mask of those that tiny must learn to say."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.opening = self._ids("<|im_start|>assistant\n")
        self.no_think = self._ids("<think>\n\n</think>\n\n")
        self.im_end, self.end_of_text = tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def encode(self, dialogue: Dialogue) -> Sample:
        if dialogue.prompt is not None:
            prompt, completion = (
                self._ids(dialogue.prompt),
                [*self._ids(dialogue.completion), self.end_of_text],
            )
            return prompt + completion, [False] * len(prompt) + [True] * len(completion)
        text = self.tokenizer.apply_chat_template(
            dialogue.messages, tools=dialogue.tools, tokenize=False, enable_thinking=dialogue.enable_thinking
        )
        ids = self._ids(text)
        said = [m for m in dialogue.messages if m["role"] == "assistant"]
        return ids, self._mask(ids, ["history_only" not in m for m in said], dialogue.enable_thinking)

    def _mask(self, ids: list[int], wanted: list[bool], thinking: bool) -> list[bool]:
        """True from behind each `<|im_start|>assistant` to its `<|im_end|>`; empty thoughts are not said."""
        mask, width = [False] * len(ids), len(self.opening)
        starts = [i + width for i in range(len(ids) - width) if ids[i : i + width] == self.opening]
        assert len(starts) == len(wanted), "a message must not contain the template's markers"
        for start, want in zip(starts, wanted, strict=True):
            end = ids.index(self.im_end, start) + 1
            first = start if thinking else start + len(self.no_think)
            mask[first:end] = [want] * (end - first)
        return mask


def batches(encoder: Encoder, seed: int, mix: Mix) -> Iterator[list[Sample]]:
    """Batches of about equal token counts, endlessly."""
    stream, rng = dialogues(seed, mix), Random(seed)
    while True:
        pool = sorted((encoder.encode(d) for d in islice(stream, POOL)), key=lambda sample: len(sample[0]))
        grouped: list[list[Sample]] = [[]]
        for sample in pool:
            if (len(grouped[-1]) + 1) * len(sample[0]) > BATCH_TOKENS and grouped[-1]:
                grouped.append([])
            grouped[-1].append(sample)
        rng.shuffle(grouped)
        yield from grouped


def tensors(batch: list[Sample], rng: Random) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, labels and positions, all [batch, length]."""
    length = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), IGNORED)
    for row, (tokens, mask) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.where(torch.tensor(mask), ids[row, : len(tokens)], IGNORED)
    return ids, labels, positions(rng, len(batch), length)


def positions(rng: Random, rows: int, length: int) -> torch.Tensor:
    """Mostly 0, 1, 2, …; sometimes with one jump, so that a long chat is nothing strange."""
    grid = torch.arange(length).repeat(rows, 1)
    for row in range(rows):
        if rng.random() < SKIP_RATE:
            grid[row, rng.randrange(length) :] += rng.randrange(SKIP_LIMIT)
    return grid


def pace(step: int, steps: int) -> float:
    """The share of the peak learning rate: a short rise, then half a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = (step - WARMUP) / max(1, steps - WARMUP)
    return LAST_PACE + (1 - LAST_PACE) * 0.5 * (1 + math.cos(math.pi * done))


def make_optimizers(model: Qwen3ForCausalLM) -> list[tuple[torch.optim.Optimizer, float]]:
    """Muon for the matrices (it needs fewer steps), AdamW for embeddings and norms; with their peak rates."""
    matrices = [w for name, w in model.named_parameters() if w.dim() == 2 and "embed" not in name]
    others = [w for name, w in model.named_parameters() if w.dim() != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=MUON_LR, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=ADAM_LR, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, MUON_LR), (adam, ADAM_LR)]


def loss_of(model: Qwen3ForCausalLM, batch: list[Sample], rng: Random) -> torch.Tensor:
    ids, labels, where = tensors(batch, rng)
    # An all-true mask keeps transformers from reading a jump in the positions as a packed sequence.
    hidden = model.model(ids, attention_mask=torch.ones_like(ids), position_ids=where, use_cache=False)[0]
    targets = labels[:, 1:].reshape(-1)
    chosen = targets != IGNORED
    logits = model.lm_head(hidden[:, :-1].reshape(-1, hidden.shape[-1])[chosen])
    return functional.cross_entropy(logits, targets[chosen])


@dataclass(frozen=True)
class Stage:
    seed: int
    mix: Mix
    steps: int
    peak: float  # of the learning rates


STAGES = {
    1: Stage(SEED, BROAD, 1700, 1.0),
    2: Stage(SEED + 1, HARD, 650, 0.5),
    3: Stage(SEED + 2, LAST, 150, 0.15),
}


def train(model: Qwen3ForCausalLM, encoder: Encoder, stage: Stage) -> None:
    steps, seed = stage.steps, stage.seed
    optimizers = make_optimizers(model)
    rng, began, total, tokens = Random(seed), time.monotonic(), 0.0, 0
    model.train()
    for step, batch in enumerate(islice(batches(encoder, seed, stage.mix), steps)):
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = stage.peak * peak * pace(step, steps)
        loss = loss_of(model, batch, rng)
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, _ in optimizers:
            optimizer.step()
        total, tokens = total + loss.item(), tokens + sum(len(ids) for ids, _ in batch)
        if (step + 1) % 50 == 0:
            spent = time.monotonic() - began
            print(
                f"step {step + 1}/{steps} loss {total / 50:.4f} {spent:.0f} s {tokens / spent:.0f} tokens/s",
                flush=True,
            )
            total = 0.0


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("start", type=Path, help="stage 1: the tokenizer's folder; later: the checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--stage", type=int, choices=sorted(STAGES), default=1)
    parser.add_argument("--steps", type=int, help="fewer, for a trial")
    args = parser.parse_args()
    stage = STAGES[args.stage]
    if args.steps:
        stage = replace(stage, steps=args.steps)
    torch.manual_seed(stage.seed)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    tokenizer = AutoTokenizer.from_pretrained(args.start)
    if args.stage == 1:
        model = Qwen3ForCausalLM(model_config(tokenizer))
        prime(model)
    else:
        model = Qwen3ForCausalLM.from_pretrained(args.start, dtype=torch.float32)
    print(f"stage {args.stage}: {sum(w.numel() for w in model.parameters()):,} parameters")
    train(model, Encoder(tokenizer), stage)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
