"""The answers, as pydantic models: for the OpenAPI document only. Nothing is built or checked with them at
run time; the tests hold every answer against them. A field that is not here is not sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

ChoiceIndex = Annotated[int, Field(ge=0, description="Which of the choices: prompt by prompt, `n` of each.")]
UnixSeconds = Annotated[int, Field(ge=0, description="Unix seconds.")]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


# ------------------------------------------------------------------------- errors


class ErrorBody(_Answer):
    message: Annotated[str, Field(description="For a person: what is wrong and what to do.")]
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "rate_limit_error",
        "server_error",
    ]
    param: Annotated[
        str | None, Field(description="The field or header at fault, such as `messages[0].role`.")
    ]
    code: Annotated[str | None, Field(description="For a program; stable.")]


class ErrorEnvelope(_Answer):
    """Every answer of 400 and above, and the last event of a stream that fails."""

    error: ErrorBody


# -------------------------------------------------------------------------- usage


class PromptTokensDetails(_Answer):
    cached_tokens: Annotated[int, Field(ge=0, description="Taken from the prefix cache.")]


class CompletionTokensDetails(_Answer):
    reasoning_tokens: Annotated[int, Field(ge=0, description="Tokens of thoughts.")]


class UsageReport(_Answer):
    """The `n` answers to one prompt share it: it counts once."""

    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]
    total_tokens: Annotated[int, Field(ge=0)]
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


# ------------------------------------------------------------------------ logprobs


class LikelyToken(_Answer):
    token: str
    logprob: float
    bytes: Annotated[
        list[Annotated[int, Field(ge=0, le=255)]] | None,
        Field(description="A part of a character is no text alone: its bytes are exact."),
    ]


class ChatTokenLogprob(LikelyToken):
    top_logprobs: Annotated[list[LikelyToken], Field(description="The likeliest, best first.")]


class ChatLogprobs(_Answer):
    content: list[ChatTokenLogprob] | None
    refusal: list[ChatTokenLogprob] | None = None


class TextLogprobs(_Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: Annotated[list[int], Field(description="Where in `text` each token begins, in characters.")]


# --------------------------------------------------------------------------- chat


class CalledFunction(_Answer):
    name: str
    arguments: Annotated[str, Field(description="A JSON object, as text.")]


class ToolCall(_Answer):
    id: Annotated[str, Field(description="To be sent back as `tool_call_id` with the result.")]
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(_Answer):
    role: Literal["assistant"]
    content: Annotated[str | None, Field(description="null where there are only tool calls.")]
    reasoning_content: Annotated[str, Field(description="The model's thoughts, if it had any.")] = ""
    tool_calls: list[ToolCall] = []


FinishReason = Annotated[
    Literal["stop", "length", "tool_calls"],
    Field(
        description="`stop`: its own end, or a stop sequence. `length`: `max_tokens`, or the context's end."
    ),
]
MatchedStop = Annotated[
    str | int | None,
    Field(description="The stop string or stop token id that ended it. Not there at the model's own end."),
]


class ChatChoice(_Answer):
    index: ChoiceIndex
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    matched_stop: MatchedStop = None


class _Completion(_Answer):
    id: str
    created: UnixSeconds
    model: Annotated[str, Field(description="The model's whole name, however it was asked for.")]
    system_fingerprint: Annotated[str, Field(description="mlxk's version.")]


class ChatCompletion(_Completion):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: UsageReport


class FunctionPiece(_Answer):
    name: str | None = None
    arguments: Annotated[str, Field(description="To be joined with the others of this index.")] = ""


class ToolCallPiece(_Answer):
    index: Annotated[int, Field(ge=0, description="Which call of the message.")]
    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionPiece


class ChatDelta(_Answer):
    """What came. `role` is in a choice's first chunk alone."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallPiece] = []


class ChatChunkChoice(_Answer):
    index: ChoiceIndex
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: Annotated[FinishReason | None, Field(description="null until the choice's last chunk.")]
    matched_stop: MatchedStop = None


class ChatCompletionChunk(_Completion):
    """One event of a streamed chat completion. The last one with choices has `usage`; with
    `stream_options.include_usage` one more follows, whose `choices` are empty."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: UsageReport | None = None


# --------------------------------------------------------------------------- text


class TextChoice(_Answer):
    index: ChoiceIndex
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason
    matched_stop: MatchedStop = None


class TextCompletion(_Completion):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: UsageReport


class TextChunkChoice(_Answer):
    index: ChoiceIndex
    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Annotated[FinishReason | None, Field(description="null until the choice's last chunk.")]
    matched_stop: MatchedStop = None


class TextCompletionChunk(_Completion):
    """One event of a streamed text completion; `usage` as in `ChatCompletionChunk`."""

    object: Literal["text_completion"]
    choices: list[TextChunkChoice]
    usage: UsageReport | None = None


# ------------------------------------------------------------------------- tokens


class Tokenization(_Answer):
    tokens: list[Annotated[int, Field(ge=0)]]
    count: Annotated[int, Field(ge=0)]
    max_model_len: Annotated[int, Field(ge=1, description="The model's context: prompt and answer together.")]
    token_strs: Annotated[
        list[str], Field(description="With `return_token_strs`: the vocabulary's own spelling of each token.")
    ] = []


class Detokenization(_Answer):
    prompt: str


# ------------------------------------------------------------------------- models


class ModelCapabilities(_Answer):
    """The same whether the model is loaded or not."""

    tools: Annotated[bool, Field(description="Its chat template takes tools, and its calls are understood.")]
    reasoning: Annotated[bool, Field(description="It has thinking markers: `reasoning_content`.")]
    vision: Literal[False]


class ModelCard(_Answer):
    id: Annotated[str, Field(description="The name to send as `model`.")]
    object: Literal["model"]
    created: Annotated[UnixSeconds, Field(description="Unix seconds: when its newest file was written.")]
    owned_by: Annotated[str, Field(description="The organization in its name, or `mlxk`.")]
    context_length: Annotated[int | None, Field(description="Tokens; null if its files do not say.")]
    loaded: bool
    capabilities: ModelCapabilities


class ModelList(_Answer):
    object: Literal["list"]
    data: list[ModelCard]


# ------------------------------------------------------------------------- health


class Health(_Answer):
    status: Literal["ok"]


class Readiness(_Answer):
    status: Literal["ready"]


# --------------------------------------------------------------------------- pool


class SpareWorker(_Answer):
    """A process that has imported everything and waits for a model."""

    id: str
    pid: int
    warm: bool


class ServerFacts(_Answer):
    pid: int
    url: str
    version: str
    uptime_s: float
    memory_limit_bytes: Annotated[int, Field(description="For all models together.")]
    memory_bytes: Annotated[int, Field(description="Of the server's own process.")]
    spare: SpareWorker | None


class PrefixCacheFacts(_Answer):
    entries: int
    bytes: int
    hits: int
    misses: int
    reused_tokens: Annotated[int, Field(description="Prompt tokens that need not be computed again.")]


class PoolModel(_Answer):
    name: str
    id: Annotated[
        str | None, Field(description="12 hex digits of the revision or of config.json; null without one.")
    ]
    state: Literal["absent", "loading", "ready", "stopping", "backoff", "failed"]
    pid: int | None
    worker: str | None
    size_bytes: Annotated[int, Field(description="Weights on disk.")]
    memory_bytes: Annotated[int, Field(description="Of its process, now.")]
    cache: PrefixCacheFacts
    in_flight: int
    queued: int
    tokens_per_s: float
    until: Annotated[
        float | None,
        Field(description="Seconds until an idle model is let go; -1: never; null while it is not idle."),
    ]
    uptime_s: float
    load_progress: Annotated[float | None, Field(description="From 0 to 1.")]
    restarts: int
    crashes: int
    pinned: bool
    last_error: str | None


class PoolFacts(_Answer):
    """The `data` of `mlxk ps --json`."""

    server: ServerFacts
    models: list[PoolModel]


class LoadResult(_Answer):
    name: str
    load_s: float
    memory_bytes: int
    already_loaded: bool
    evicted: Annotated[list[str], Field(description="Models that went to make room for it.")] = []


class StopReport(_Answer):
    name: str
    stopped: Annotated[bool, Field(description="false: it did not run.")]
    freed_bytes: int


class PoolEvent(BaseModel):
    """One event of `GET /pool/events`, with facts that go with its kind."""

    model_config = ConfigDict(extra="allow")

    n: Annotated[int, Field(description="Its number; `lost` has none.")] = 0
    time: Annotated[float, Field(description="Unix seconds.")]
    kind: str


ANSWERS: tuple[type[BaseModel], ...] = (
    ErrorEnvelope,
    ChatCompletion,
    ChatCompletionChunk,
    TextCompletion,
    TextCompletionChunk,
    Tokenization,
    Detokenization,
    ModelCard,
    ModelList,
    Health,
    Readiness,
    PoolFacts,
    LoadResult,
    StopReport,
    PoolEvent,
)
