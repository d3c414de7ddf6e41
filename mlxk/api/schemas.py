"""The bodies that clients send, as pydantic models: types, ranges, and the words for what is wrong.

Strict: `"5"` is no number and `true` is no integer, because a client that sends those means something
else. Unknown fields are ignored, null means absent. Known fields that cannot be honoured are refused
before (`unsupported.py`); what a schema cannot say is checked after (`translate.py`, `tokenize.py`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_N = 16
MAX_STOP_STRINGS = 16
MAX_STOP_CHARS = 4096
"""Far beyond any use; each is kept, and what may become one is held back."""
MAX_STOP_TOKEN_IDS = 1024
"""An automaton is built of them beside everybody's steps."""
MAX_LOGPROBS = 20
_INT64 = 2**63

FailFast = Field(fail_fast=True)
"""A million wrong items make one error, not a million."""

TokenId = Annotated[int, Field(ge=0, lt=_INT64)]
TokenIds = Annotated[list[TokenId], FailFast]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


ModelName = Annotated[
    str,
    Field(
        min_length=1,
        description="An installed model, as `GET /v1/models` names it; an unmistakable part of it will do.",
    ),
]
KeepAlive = Annotated[
    str | int | float | None,
    Field(description="How long the model stays loaded afterwards: seconds, `10m`, `1h30m`, -1 forever."),
]
_DEFAULT = "Left out: as the model's generation_config.json says"


class StreamOptions(_Body):
    include_usage: Annotated[
        bool | None, Field(description="One more chunk before `[DONE]`: empty `choices`, and `usage`.")
    ] = None


class GenerationRequest(_Body):
    """What both completion endpoints take."""

    model: ModelName
    temperature: Annotated[
        float | None, Field(ge=0, le=2, description=f"0 is greedy. {_DEFAULT}, then 1.")
    ] = None
    top_p: Annotated[
        float | None,
        Field(
            ge=0, le=1, description=f"Only the likeliest tokens that make up this share. {_DEFAULT}, then 1."
        ),
    ] = None
    top_k: Annotated[
        int | None,
        Field(ge=-1, le=2**31 - 1, description="Only so many of the likeliest tokens. 0 and -1: off."),
    ] = None
    min_p: Annotated[
        float | None,
        Field(ge=0, le=1, description="Only tokens at least so likely, compared to the likeliest. 0: off."),
    ] = None
    max_tokens: Annotated[
        int | None,
        Field(
            ge=1,
            description="Tokens of the answer, thoughts included. Left out: half of the model's context.",
        ),
    ] = None
    max_completion_tokens: Annotated[int | None, Field(ge=1, description="Wins over `max_tokens`.")] = None
    stop: Annotated[
        str | Annotated[list[str], FailFast, Field(max_length=MAX_STOP_STRINGS)] | None,
        Field(
            description="Texts that end the answer and are not part of it, wherever tokens begin and end. "
            "The choice names the one that did in `matched_stop`. Not empty, and up to "
            f"{MAX_STOP_CHARS} characters.",
        ),
    ] = None
    stop_token_ids: Annotated[
        Annotated[TokenIds, Field(max_length=MAX_STOP_TOKEN_IDS)] | None,
        Field(description="Tokens that end the answer; `matched_stop` is then the id."),
    ] = None
    ignore_eos: Annotated[
        bool | None, Field(description="Go on after the model's own end, up to `max_tokens`.")
    ] = None
    seed: Annotated[
        int | None,
        Field(ge=-_INT64, lt=_INT64, description="The same answer for the same seed, alone and in company."),
    ] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_N, description="Answers to each prompt.")] = None
    logit_bias: Annotated[
        dict[str, Annotated[float, Field(ge=-100, le=100)]] | None,
        Field(description="Added to the logits of these token ids (as JSON keys: strings)."),
    ] = None
    repetition_penalty: Annotated[float | None, Field(ge=0.01, le=100, description="1: off.")] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2, description="0: off.")] = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2, description="0: off.")] = None
    stream: Annotated[
        bool | None, Field(description="Answer with server-sent events as the text is made.")
    ] = None
    stream_options: Annotated[StreamOptions | None, Field(description="With `stream` only.")] = None
    user: Annotated[str | None, Field(description="Accepted, and of no effect.")] = None
    keep_alive: KeepAlive = None
    context_share: Annotated[
        float | None,
        Field(gt=0, le=1, description="Part of the context a reply may fill without `max_tokens`."),
    ] = None


class ContentPart(_Body):
    """A part of a message: text. Images and sound are refused."""

    type: Annotated[str, Field(description="`text`, or `refusal`.")]
    text: str | None = None
    refusal: str | None = None


class FunctionCall(_Body):
    name: Annotated[str, Field(min_length=1)]
    arguments: Annotated[
        str | dict[str, Any],
        Field(description="A JSON object, as text (as it was received) or as an object."),
    ] = "{}"


class MessageToolCall(_Body):
    """A call that the model made in an earlier turn."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: FunctionCall


class Message(_Body):
    """One turn of the conversation."""

    role: Annotated[
        Literal["system", "developer", "user", "assistant", "tool"],
        Field(description="`developer` is taken as `system`; `tool` brings the result of a call."),
    ]
    content: Annotated[
        str | Annotated[list[ContentPart], FailFast] | None,
        Field(description="Text, or parts of it, which are joined. null beside `tool_calls`."),
    ] = None
    reasoning_content: Annotated[
        str | None, Field(description="The assistant's thoughts, for templates that show them again.")
    ] = None
    name: Annotated[str | None, Field(description="Of the speaker, for templates that show it.")] = None
    tool_calls: Annotated[list[MessageToolCall], FailFast] | None = None
    tool_call_id: Annotated[
        str | None, Field(description="With `role: tool`: the call that this is the result of.")
    ] = None


class Function(_Body):
    name: Annotated[str, Field(min_length=1)]
    description: Annotated[str | None, Field(description="What it does, for the model.")] = None
    parameters: Annotated[
        dict[str, Any] | None, Field(description="A JSON Schema of the arguments: an object.")
    ] = None
    strict: Annotated[bool | None, Field(description="Arguments always follow the schema.")] = None


class Tool(_Body):
    """A function that the model may call."""

    type: Literal["function"] = "function"
    function: Function


class FunctionName(_Body):
    name: Annotated[str, Field(min_length=1)]


class NamedToolChoice(_Body):
    """The model must call this function."""

    type: Literal["function"] = "function"
    function: FunctionName


class AllowedTools(_Body):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedToolChoice], FailFast, Field(min_length=1)]


class AllowedToolsChoice(_Body):
    """Some of `tools`: the model may (`auto`) or must (`required`) call these, and no others."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class JsonSchema(_Body):
    model_config = ConfigDict(
        strict=True, extra="ignore", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    name: str | None = None
    description: str | None = None
    schema_: Annotated[
        dict[str, Any] | None, Field(alias="schema", description="A JSON Schema; left out: any object.")
    ] = None
    strict: Annotated[bool | None, Field(description="The reply always follows the schema.")] = None


class ResponseFormat(_Body):
    """The form of the answer. It is kept to at every token, so that the answer always parses."""

    type: Annotated[
        Literal["text", "json_object", "json_schema"],
        Field(description="`json_object`: any object. `json_schema`: what the schema allows."),
    ]
    json_schema: JsonSchema | None = None


ToolChoice = Annotated[
    Literal["none", "auto", "required"] | NamedToolChoice | AllowedToolsChoice | None,
    Field(
        description="`none`: the tools are not shown to the model. `auto`, the default: it may call some. "
        "`required`: it must call at least one."
    ),
]
TemplateKwargs = Annotated[
    dict[str, Any] | None,
    Field(description="Variables of the model's chat template, such as `enable_thinking`."),
]
ReasoningEffort = Annotated[
    Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
    Field(
        description="For the template, as it understands it; the nearest value that it names, where it does "
        "not name this one. `none` switches thinking off."
    ),
]


class ChatRequest(GenerationRequest):
    """`POST /v1/chat/completions`. null is as good as left out; unknown fields are ignored."""

    messages: Annotated[
        list[Message], FailFast, Field(min_length=1, description="The conversation, oldest first.")
    ]
    tools: Annotated[list[Tool], FailFast] | None = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: Annotated[bool | None, Field(description="`false`: at most one call an answer.")] = (
        None
    )
    response_format: ResponseFormat | None = None
    logprobs: Annotated[bool | None, Field(description="How likely each token was.")] = None
    top_logprobs: Annotated[
        int | None,
        Field(ge=0, le=MAX_LOGPROBS, description="So many of the likeliest, too. Needs `logprobs: true`."),
    ] = None
    chat_template_kwargs: TemplateKwargs = None
    reasoning_effort: ReasoningEffort = None


class CompletionRequest(GenerationRequest):
    """`POST /v1/completions`. null is as good as left out; unknown fields are ignored."""

    prompt: Annotated[
        str | Annotated[list[str], FailFast] | TokenIds | Annotated[list[TokenIds], FailFast],
        Field(description="A text, several, token ids, or several lists of them. None of them empty."),
    ]
    logprobs: Annotated[
        int | None,
        Field(ge=0, le=MAX_LOGPROBS, description="How likely each token was, and so many of the likeliest."),
    ] = None


class TokenizeRequest(_Body):
    """`POST /tokenize`: either `prompt`, or `messages` as for a chat completion."""

    model: ModelName
    prompt: Annotated[str | None, Field(description="A text, as for `/v1/completions`.")] = None
    messages: Annotated[
        Annotated[list[Message], FailFast, Field(min_length=1)] | None,
        Field(description="A conversation, written out by the model's chat template."),
    ] = None
    tools: Annotated[list[Tool], FailFast] | None = None
    tool_choice: ToolChoice = None
    chat_template_kwargs: TemplateKwargs = None
    reasoning_effort: ReasoningEffort = None
    add_generation_prompt: Annotated[
        bool | None,
        Field(
            description="With `messages`: end with the start of the answer. Left out: yes, as in a request."
        ),
    ] = None
    add_special_tokens: Annotated[
        bool | None,
        Field(
            description="With `prompt`: begin with the model's BOS token, if it has one. Left out: yes, as "
            "in a request. A chat template writes its own."
        ),
    ] = None
    return_token_strs: Annotated[
        bool | None, Field(description="Also each token's name in the vocabulary.")
    ] = None
    keep_alive: KeepAlive = None


class DetokenizeRequest(_Body):
    """`POST /detokenize`."""

    model: ModelName
    tokens: Annotated[TokenIds, Field(description="Of none the text is empty.")]
    keep_alive: KeepAlive = None
