"""The wire contract between the front and a worker, whole, in one place.

Each ZeroMQ message is one msgpack array of Structs (a *frame*): everything that one
engine step has to say travels together. Structs are tagged, frozen and append-only: a new
field goes to the end and has a default, so that a frame of an older peer still decodes.
This module imports neither MLX nor zmq: the front may import it freely.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

PROTOCOL = 1
"""Grows when an old peer could no longer understand a frame; `Hello` carries it."""


# --------------------------------------------------------------------------- faults


class FaultCode(StrEnum):
    """Why a request or a load failed. The API maps each to one HTTP status."""

    INVALID_REQUEST = "invalid_request"
    UNSUPPORTED_PARAMETER = "unsupported_parameter"
    UNSUPPORTED_STOP_STRING = "unsupported_stop_string"
    TEMPLATE_ERROR = "template_error"
    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    MODEL_NOT_FOUND = "model_not_found"
    AMBIGUOUS_MODEL = "ambiguous_model"
    MODEL_UNHEALTHY = "model_unhealthy"
    MODEL_LOAD_FAILED = "model_load_failed"
    MODEL_FAILED = "model_failed"
    MODEL_STOPPED = "model_stopped"
    INSUFFICIENT_MEMORY = "insufficient_memory"
    QUEUE_FULL = "queue_full"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    WORKER_DIED = "worker_died"
    ENGINE_ERROR = "engine_error"
    SHUTTING_DOWN = "shutting_down"
    CANCELLED = "cancelled"
    INTERNAL = "internal_error"


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """A failure as data: no exception objects, no tracebacks cross a process border."""

    code: FaultCode
    message: str
    """One or two sentences for a person: what went wrong and what to do."""
    retryable: bool = False
    param: str | None = None
    """The request field that is at fault, where there is one."""
    retry_after_s: float | None = None


class FaultError(Exception):
    """A `Fault` on its way up the stack inside one process."""

    def __init__(self, fault: Fault, details: dict[str, Any] | None = None) -> None:
        """`details` are for the control socket's clients: they do not travel with the fault."""
        super().__init__(fault.message)
        self.fault = fault
        self.details = details or {}


def fault(
    code: FaultCode,
    message: str,
    *,
    retryable: bool = False,
    param: str | None = None,
    retry_after_s: float | None = None,
) -> FaultError:
    """Shorthand: `raise fault(FaultCode.X, "...")`."""
    return FaultError(Fault(code, message, retryable, param, retry_after_s))


# ----------------------------------------------------------------- front -> worker


class Sampling(msgspec.Struct, frozen=True):
    """How to pick the next token. None means: the model's generation_config, then OpenAI's default."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[int, float] | None = None


class Load(msgspec.Struct, frozen=True, tag="load"):
    """Load a model. Sent once, to a warm worker."""

    name: str
    path: str
    """A local folder with config.json, tokenizer and safetensors. Never downloaded from."""
    cache_bytes: int
    """Budget of the prefix cache."""
    memory_bytes: int | None = None
    """This worker's share of the machine, set as MLX's memory and wired limits. None: MLX's defaults."""
    context_length: int | None = None
    """Overrides what the model's config says (never beyond it)."""
    trust_remote_code: bool = False
    options: dict[str, Any] = {}
    """Switches of the engine (the fake engine's faults; batch sizes of the MLX one)."""


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """One sequence to generate. Exactly one of `messages`, `prompt` and `tokens` is given."""

    id: str
    messages: list[dict[str, Any]] | None = None
    """Chat: OpenAI messages, rendered with the model's template in the worker."""
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = {}
    prompt: str | None = None
    tokens: list[int] | None = None
    max_tokens: int | None = None
    """None: the policy of `context_share` applies."""
    context_share: float = 0.5
    """Part of the context that a reply may fill without `max_tokens` (server 0.5, `mlxk run` 1.0)."""
    sampling: Sampling = Sampling()
    stop: list[str] = []
    stop_token_ids: list[int] = []
    hidden_stop: list[str] = []
    """Like `stop`, but of the server's own choosing: ends the reply and is not reported as matched."""
    ignore_eos: bool = False
    logprobs: int | None = None
    """Log probabilities of the sampled tokens and of so many of the likeliest (0 to 20). None: none."""
    json_schema: dict[str, Any] | None = None
    """The reply is JSON that this schema allows (the answer itself, after any thoughts)."""
    required_tools: list[str] = []
    """Of `tools`, those of which the reply must call at least one. Empty: the model chooses."""
    parallel_tool_calls: bool = True
    """False: the reply ends with its first tool call."""


class Tokenize(msgspec.Struct, frozen=True, tag="tokenize"):
    """The tokens of a prompt, made as for `Generate`. Answered by `Tokenized` or `Failed`."""

    id: str
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    template_kwargs: dict[str, Any] = {}
    prompt: str | None = None
    add_special_tokens: bool = True
    """Of `prompt` only: a template writes its own."""
    add_generation_prompt: bool = True
    """Of `messages` only."""
    return_token_strs: bool = False
    """Name each token as the vocabulary does."""


class Detokenize(msgspec.Struct, frozen=True, tag="detokenize"):
    """The text of tokens, special ones included. Answered by `Detokenized` or `Failed`."""

    id: str
    tokens: list[int]


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """End a request now. Idempotent; answered by the request's `Finished(reason="abort")` if it still ran."""

    id: str


class Ping(msgspec.Struct, frozen=True, tag="ping"):
    """Answered by the I/O thread, also while the engine is busy or stuck."""

    seq: int


class TrimCache(msgspec.Struct, frozen=True, tag="trim_cache"):
    """A new budget for the prefix cache from now on: what is over it goes. Answered by `Trimmed`."""

    max_bytes: int = 0
    memory_bytes: int | None = None
    """With it a new share of the machine, as in `Load`. None: as it was."""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """Finish what runs, take nothing new (a late `Generate` fails with MODEL_STOPPED)."""


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Finish the step, abort what runs, release the memory, exit 0."""


ToWorker = Load | Generate | Tokenize | Detokenize | Abort | Ping | TrimCache | Drain | Shutdown


# ----------------------------------------------------------------- worker -> front


class Capabilities(msgspec.Struct, frozen=True):
    """What a loaded model can do beside plain text."""

    chat: bool = True
    tools: bool = False
    reasoning: bool = False
    vision: bool = False


class CacheStats(msgspec.Struct, frozen=True):
    """Counters of one worker's prefix cache, since it loaded its model."""

    entries: int = 0
    bytes: int = 0
    hits: int = 0
    misses: int = 0
    reused_tokens: int = 0


class WorkerStats(msgspec.Struct, frozen=True):
    """What a worker says of itself with every `Pong` (and after a request ends)."""

    steps: int = 0
    """Engine steps since the load; a busy worker whose count stands still is stuck."""
    step_age_s: float = 0.0
    """Seconds since the running step began (0 when idle)."""
    in_flight: int = 0
    active_bytes: int = 0
    """Memory MLX holds in live arrays."""
    peak_bytes: int = 0
    cached_bytes: int = 0
    """Memory MLX keeps for reuse."""
    generated_tokens: int = 0
    prompt_tokens: int = 0
    cache: CacheStats = CacheStats()


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """The worker's first words: it has imported its engine and waits for `Load`."""

    protocol: int
    version: str
    pid: int
    engine: str
    working_set_bytes: int | None = None
    """What Metal recommends for all processes of this machine together; None where there is no Metal."""


class LoadProgress(msgspec.Struct, frozen=True, tag="load_progress"):
    """Bytes of weights read so far."""

    done_bytes: int
    total_bytes: int


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    context_length: int
    vocab_size: int
    weight_bytes: int
    load_s: float
    capabilities: Capabilities = Capabilities()


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    fault: Fault


class Trimmed(msgspec.Struct, frozen=True, tag="trimmed"):
    """A `TrimCache` has been carried out."""

    max_bytes: int
    """The budget that is now kept."""
    freed_bytes: int
    """So much less is held than before."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The request's prompt is tokenized and in the batch."""

    id: str
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens taken from the prefix cache."""
    max_tokens: int
    """What was decided for it."""


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Prefill: prompt tokens computed so far."""

    id: str
    done: int
    total: int


class ToolCall(msgspec.Struct, frozen=True, array_like=True):
    id: str
    name: str
    arguments: str
    """A JSON object, as text."""


class TopLogprob(msgspec.Struct, frozen=True, array_like=True):
    """One of the likeliest tokens at a position."""

    token: int
    utf8: bytes
    """What it stands for; a part of a character may be no UTF-8 alone."""
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A sampled token and how likely it was: after penalties, biases and constraints, before temperature."""

    token: int
    utf8: bytes
    logprob: float
    top: list[TopLogprob] = []
    """The likeliest, best first; as many as `Generate.logprobs` asks for."""


class Delta(msgspec.Struct, frozen=True, array_like=True):
    """What one request gained in one step. Any part may be empty."""

    id: str
    content: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    tokens: int = 1
    """Tokens generated in this step (also those whose text is held back)."""
    logprobs: list[TokenLogprob] = []
    """Of the tokens whose text is (in part) in `content`, in order; of all text where there is no chat."""


class Deltas(msgspec.Struct, frozen=True, tag="deltas"):
    """All requests' gains of one step, in one message."""

    items: list[Delta]


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


class Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Finished(msgspec.Struct, frozen=True, tag="finished"):
    """The end of a request that ran: the last word about it."""

    id: str
    reason: FinishReason
    usage: Usage
    matched_stop: str | int | None = None
    """The stop string or stop token id of the request that fired; None at a natural end."""


class Tokenized(msgspec.Struct, frozen=True, tag="tokenized"):
    """The last word about a `Tokenize`."""

    id: str
    tokens: list[int]
    context_length: int
    token_strs: list[str] | None = None
    """The tokens' names, if they were asked for. A vocabulary's own spelling: no part of the text."""


class Detokenized(msgspec.Struct, frozen=True, tag="detokenized"):
    """The last word about a `Detokenize`."""

    id: str
    text: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The end of a request that could not run or go on: the last word about it."""

    id: str
    fault: Fault


class Pong(msgspec.Struct, frozen=True, tag="pong"):
    seq: int
    stats: WorkerStats


FromWorker = (
    Hello
    | LoadProgress
    | Loaded
    | LoadFailed
    | Trimmed
    | Started
    | Progress
    | Deltas
    | Finished
    | Tokenized
    | Detokenized
    | Failed
    | Pong
)

RequestEvent = Started | Progress | Delta | Finished | Tokenized | Detokenized | Failed
"""What the owner of one request sees (the front takes `Deltas` apart)."""

Work = Generate | Tokenize | Detokenize
"""What a request asks of a model's worker. Each ends with exactly one `LastWord`."""
LastWord = Finished | Tokenized | Detokenized | Failed


# ------------------------------------------------------------------------- encoding

_encoder = msgspec.msgpack.Encoder()
_to_worker = msgspec.msgpack.Decoder(list[ToWorker])
_from_worker = msgspec.msgpack.Decoder(list[FromWorker])


class ProtocolError(Exception):
    """A frame that cannot be understood."""


def encode_to_worker(messages: list[ToWorker]) -> bytes:
    return _encoder.encode(messages)


def encode_from_worker(messages: list[FromWorker]) -> bytes:
    return _encoder.encode(messages)


def decode_to_worker(frame: bytes | memoryview) -> list[ToWorker]:
    """Raises ProtocolError if the frame is not one of ours."""
    try:
        return _to_worker.decode(frame)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"undecodable frame for a worker: {error}") from error


def decode_from_worker(frame: bytes | memoryview) -> list[FromWorker]:
    """Raises ProtocolError if the frame is not one of ours."""
    try:
        return _from_worker.decode(frame)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"undecodable frame from a worker: {error}") from error
