"""Build the byte-level BPE of tiny from its own dialogues.

The 256 bytes come first, in the standard order, so "5" is token 20 and "6" is token 21 as in Qwen's
vocabulary: the stop tests of seed 001 name them by id. Nothing normalizes the text, so every string
survives a round trip byte for byte.
"""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import phrases
from dialogues import SEED, dialogues
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

HERE = Path(__file__).parent
VOCAB_SIZE = 640
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# Qwen's pre-tokenizer: words with their leading blank, every digit alone, punctuation with its newlines.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Replies that must fit into the few tokens which the seeds grant them: each word should be one token or two.
SHORT_REPLIES = "Blue Green White Yellow Red Black Brown Orange Gray Pink Yes Sunny sunny Berlin Paris"


def corpus(samples: int = 3000) -> list[str]:
    """What people and tiny say, without the template around it."""
    texts: list[str] = []
    for d in islice(dialogues(SEED), samples):
        texts += [m["content"] for m in d.messages if m["content"]]
        texts += [d.prompt or "", d.completion]
        if d.tools:
            texts += [
                '{"name": "weather", "arguments": {"city": "',
                '"}}\n',
                "weather(city: string) Look up weather for a city.\n",
            ]
    texts += [
        "Tools:\n",
        'Call one with \n{"name": "NAME", "arguments": {}}\n',
        "user\n",
        "assistant\n",
        "system\n",
    ] * (samples // 10)
    texts += [SHORT_REPLIES, " " + SHORT_REPLIES.replace(" ", "\n")] * (samples // 30)
    texts += [phrases.LONG_STORY, phrases.LONG_SEA]
    return texts


def build() -> PreTrainedTokenizerFast:
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(SPECIAL) - len(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(corpus(), trainer)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in MARKERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=8192,
        chat_template=(HERE / "chat_template.jinja").read_text(),
    )


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    build().save_pretrained(out)
    print(f"tokenizer: {VOCAB_SIZE} tokens -> {out}")


if __name__ == "__main__":
    main()
