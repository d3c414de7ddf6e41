"""How each model family writes its tool calls: mlx_lm's parsers, made strict.

Several of those parsers take what they recognize and drop the rest: an argument whose end was cut off, the
second of two calls, an unknown shape under a made-up name. A client must never run half a call, so here the
text between two markers is either calls, all of it, or it raises and comes back as text
(docs/decisions/0017-text-pipeline.md).
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import string
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mlxk.workers import written_json
from mlxk.workers.protocol import ToolCall
from mlxk.workers.written_json import Numbers

Tools = list[dict[str, Any]]
Parse = Callable[[str, Any], Any]


def _new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"


def _new_mistral_id() -> str:
    """Mistral's templates refuse anything but nine letters and digits."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes its calls. `parse` raises on malformed text."""

    start: str
    end: str
    """"" where the end of the reply ends the calls."""
    parse: Parse
    ends_itself: bool = True
    """A whole call can be told from the beginning of one without its end marker."""
    converts: bool = False
    """`parse` gives numbers the type that the tool's schema wants."""
    new_id: Callable[[], str] = _new_call_id
    written: Callable[[str], str] | None = None

    def calls(self, text: str, tools: Tools | None, *, closed: bool) -> list[ToolCall]:
        """The calls that the text between the markers makes; [] if it is not calls from end to end.

        `closed`: by the end marker, or by the model's own end of the reply.
        """
        if not tools or not (closed or self.ends_itself):
            return []
        try:
            numbers = Numbers(text, by_value=self.converts)
            parsed = self.parse(numbers.text, plain_tools(tools))
            calls = parsed if isinstance(parsed, list) else [parsed]
            return [self._tool_call(call, numbers) for call in calls]
        except Exception:  # parsers raise whatever their format's libraries raise
            return []

    def as_text(self, text: str, *, marked: bool) -> str:
        """What the model wrote, for a call that is none. `marked`: the end marker too."""
        if self.written is not None:
            return self.written(text)
        return self.start + text + (self.end if marked else "")

    def _tool_call(self, call: Any, numbers: Numbers) -> ToolCall:
        """Raises ValueError unless `call` is {"name": str, "arguments": object or JSON text}."""
        name = call["name"]
        arguments = call["arguments"] if "arguments" in call else call.get("parameters")
        if not isinstance(name, str) or not name:
            raise ValueError("a call without a name")
        call_id = call.get("id")
        call_id = numbers.show(call_id) if isinstance(call_id, str) and call_id else self.new_id()
        name, text = numbers.show(name), numbers.show(_arguments_text(arguments))
        if not _is_encodable(name) or not _is_encodable(call_id):
            raise ValueError("a call whose name is no text")
        return ToolCall(call_id, name, text)


def tool_format(tokenizer: Any) -> ToolFormat | None:
    """The format of mlx_lm's TokenizerWrapper; None for a model without tool calls."""
    if not tokenizer.has_tool_calling:
        return None
    parse: Parse = tokenizer.tool_parser
    family = parse.__module__.rpartition(".")[2]
    strict = _STRICT.get(family)
    return ToolFormat(
        tokenizer.tool_call_start,
        tokenizer.tool_call_end or "",
        parse if strict is None else lambda text, tools: strict(parse, text, tools),
        ends_itself=family not in ("glm47", "longcat", "minicpm5"),
        converts=family in ("minicpm5", "minimax_m2", "qwen3_coder"),
        new_id=_new_mistral_id if family == "mistral" else _new_call_id,
    )


def plain_tools(tools: Tools) -> Tools:
    """The tools with everything that the parsers take for granted, and that OpenAI leaves optional."""
    plain = []
    for tool in tools:
        function = tool["function"] if isinstance(tool.get("function"), dict) else tool
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        known = properties if isinstance(properties, dict) else {}
        known = {name: schema for name, schema in known.items() if isinstance(schema, dict)}
        shown = {"name": function.get("name"), "parameters": {"type": "object", "properties": known}}
        plain.append({"type": "function", "function": shown})
    return plain


def _arguments_text(arguments: Any) -> str:
    """A JSON object: as it was written, where it was written as JSON. Raises ValueError for anything else."""
    if arguments is None:
        return "{}"
    if isinstance(arguments, str):
        text = arguments.strip()
        value = written_json.read(text) if text else {}
        if isinstance(value, str) and text.startswith('"'):  # JSON in a text
            return _arguments_text(value)
        if value is None or not text:
            return "{}"
        arguments, text = value, written_json.encodable(text)
    else:
        # NaN and Infinity are Python's, not JSON's.
        text = written_json.encodable(json.dumps(arguments, ensure_ascii=False, allow_nan=False))
    if not isinstance(arguments, dict):
        raise ValueError("a call whose arguments are no object")
    return text


def _is_encodable(text: str) -> bool:
    """No half surrogate pairs: JSON may hold them as escapes ("\\ud83d"), a message to the front may not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# ---------------------------------------------------------------- one function a family


def _balanced(text: str, *pairs: tuple[str, str]) -> None:
    """Raises ValueError if something was opened and not closed: the parsers skip it without a word."""
    for opening, closing in pairs:
        if text.count(opening) != text.count(closing):
            raise ValueError(f"{opening} without {closing}")


def _names(tools: Tools) -> list[str]:
    return [tool["function"]["name"] for tool in tools]


def json_calls(text: str) -> list[dict[str, Any]]:
    """Calls as JSON objects, one after the other or in arrays; their arguments as they were written."""
    return [_json_call(written) for written in written_json.values(text)]


def _json_call(written: str) -> dict[str, Any]:
    call = written_json.members(written)
    texts = {key: json.loads(call[key]) for key in ("name", "id") if call.get(key, "").startswith('"')}
    return texts | {key: call[key] for key in ("arguments", "parameters") if key in call}


def _json_tools(parse: Parse, text: str, tools: Tools) -> Any:
    """One JSON value, as mlx_lm reads it, or several between one pair of markers."""
    return json_calls(text)


def _function_gemma(parse: Parse, text: str, tools: Tools) -> Any:
    """`call:NAME{key:value,...}`, texts between <escape>. mlx_lm's own parser stops at the first "}"."""
    found = re.fullmatch(r"\s*call:([\w.-]+)\s*(\{.*\})\s*", text, re.DOTALL)
    if found is None:
        raise ValueError("no call")
    parts = found[2].split("<escape>")
    if len(parts) % 2 == 0:
        raise ValueError("a text without its end")
    shown = [
        json.dumps(part) if n % 2 else re.sub(r"([{,]\s*)([\w.-]+)\s*:", r'\1"\2":', part)
        for n, part in enumerate(parts)
    ]
    try:
        return {"name": found[1], "arguments": json.loads("".join(shown))}
    except ValueError:
        if any(sign in found[2][1:-1] for sign in "{}[]"):
            raise
        return parse(text, tools)  # texts without their marks


def _gemma4(parse: Parse, text: str, tools: Tools) -> Any:
    bare = re.sub(r'<\|"\|>.*?<\|"\|>', "", text, flags=re.DOTALL).strip()
    if not (bare.startswith("call:") and bare.endswith("}")):
        raise ValueError("more than calls")
    _balanced(bare, ("{", "}"))  # else the parser's work grows with the square: 10 s for 20,000 characters
    calls = parse(text, tools)
    if bare.count("call:") != (len(calls) if isinstance(calls, list) else 1):
        raise ValueError("more than calls")
    return calls


def _arg_keys(parse: Parse, text: str, tools: Tools) -> Any:
    """GLM, Laguna and LongCat: a name and <arg_key>/<arg_value> pairs."""
    prefix = "longcat_arg" if "<longcat_arg" in text else "arg"
    tags = [f"{prefix}_key>", f"{prefix}_value>"]
    _balanced(text, *((f"<{tag}", f"</{tag}") for tag in tags))
    _balanced(text, (f"<{tags[0]}", f"<{tags[1]}"))
    if f"<{tags[0]}" not in text and not text.lstrip().startswith("{"):
        # The parser would make a call of any words.
        if text.strip() not in _names(tools):
            raise ValueError("no call")
        return {"name": text.strip(), "arguments": {}}
    call = parse(text, tools)
    if call["name"] == "unknown" and "unknown" not in _names(tools):
        raise ValueError("no call")
    if text.lstrip().startswith("{") and call["name"] not in _names(tools):
        raise ValueError("no call")
    return call


def _kimi_k2(parse: Parse, text: str, tools: Tools) -> Any:
    _balanced(text, ("<|tool_call_begin|>", "<|tool_call_end|>"))
    calls = parse(text, tools)
    parts = text.split("<|tool_call_argument_begin|>")[1:]
    if len(parts) != len(calls):
        raise ValueError("more than calls")
    for call, part in zip(calls, parts, strict=True):
        call["arguments"] = part.partition("<|tool_call_end|>")[0]
        if not call["arguments"].strip() and "<|tool_call_end|>" not in part:
            raise ValueError("no arguments yet")
    return calls


def _kimi_k3(parse: Parse, text: str, tools: Tools) -> Any:
    _balanced(text, *((f"<|open|>{tag}", f"<|close|>{tag}") for tag in ("call", "argument", "json")))
    calls = parse(text, tools)
    if len(calls) != text.count("<|open|>call"):
        raise ValueError("a malformed call among others")
    return calls


def _minicpm5(parse: Parse, text: str, tools: Tools) -> Any:
    _balanced(text, ("<param ", "</param>"))
    return parse(text, tools)


def _minimax_m2(parse: Parse, text: str, tools: Tools) -> Any:
    _balanced(text, ("<invoke ", "</invoke>"), ("<parameter ", "</parameter>"))
    return parse(text, tools)


def _muse_spark(parse: Parse, text: str, tools: Tools) -> Any:
    """The parser reads every value as JSON that can be, also that of a text: "12", "true"."""
    _balanced(text, ("<atem:invoke ", "</atem:invoke>"), ("<atem:parameter ", "</atem:parameter>"))
    parsed = parse(text, tools)
    calls = parsed if isinstance(parsed, list) else [parsed]
    invokes = text.split("<atem:invoke ")[1:]
    if len(invokes) != len(calls):
        raise ValueError("more than calls")
    schemas = {tool["function"]["name"]: tool["function"]["parameters"]["properties"] for tool in tools}
    for call, invoke in zip(calls, invokes, strict=True):
        for name, value in _MUSE_SPARK_PARAMETER.findall(invoke):
            if schemas.get(call["name"], {}).get(name, {}).get("type") == "string":
                call["arguments"][name] = value.strip()
    return calls


_MUSE_SPARK_PARAMETER = re.compile(
    r'<atem:parameter\b[^>]*?\bname="([^"]+)"[^>]*?>(.*?)</atem:parameter>', re.DOTALL
)


_MISTRAL_HEADER = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([\w.-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?\[ARGS\]\s*")


def _mistral(parse: Parse, text: str, tools: Tools) -> Any:
    """A JSON list, or `name[CALL_ID]id[ARGS]{...}` again and again; mlx_lm takes the id for the name."""
    place, calls, text = 0, [], text.strip()
    if text.startswith("["):
        return json_calls(text)
    while place < len(text):
        header = _MISTRAL_HEADER.match(text, place)
        if header is None:
            raise ValueError("more than calls")
        arguments, place = written_json.value(text, header.end())
        calls.append({"name": header[1], "id": header[2], "arguments": arguments})
    return calls


def _pythonic(parse: Parse, text: str, tools: Tools) -> Any:
    """`[name(key=value), ...]`. For what is no Python the parser falls back to patterns that fit one call."""
    bare = text.strip()
    if not (bare.startswith("[") and bare.endswith("]")):
        raise ValueError("no list of calls")
    try:
        calls = ast.parse(bare, mode="eval").body
    except SyntaxError:
        if re.search(r"\)\s*,\s*[\w.]+\(", bare) or "=" not in bare:
            raise
    else:
        for call in calls.elts if isinstance(calls, ast.List) else [calls]:
            if not isinstance(call, ast.Call) or call.args or any(not named.arg for named in call.keywords):
                raise ValueError("an argument without a name")
    return parse(bare, tools)


def _qwen3_coder(parse: Parse, text: str, tools: Tools) -> Any:
    """The parser reads one function; a model may write several between one pair of markers."""
    _balanced(text, ("<function=", "</function>"), ("<parameter=", "</parameter>"))
    functions = re.findall(r"<function=.*?</function>", text, re.DOTALL)
    if not functions or re.sub(r"<function=.*?</function>", "", text, flags=re.DOTALL).strip():
        raise ValueError("more than calls")
    return [parse(function, tools) for function in functions]


_STRICT: dict[str, Callable[[Parse, str, Tools], Any]] = {
    "function_gemma": _function_gemma,
    "gemma4": _gemma4,
    "glm47": _arg_keys,
    "json_tools": _json_tools,
    "kimi_k2": _kimi_k2,
    "kimi_k3": _kimi_k3,
    "longcat": _arg_keys,
    "minicpm5": _minicpm5,
    "minimax_m2": _minimax_m2,
    "mistral": _mistral,
    "muse_spark": _muse_spark,
    "pythonic": _pythonic,
    "qwen3_coder": _qwen3_coder,
}
"""By the name of mlx_lm's module (laguna's parser is glm47's)."""
