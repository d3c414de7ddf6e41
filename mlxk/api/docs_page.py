"""GET /docs: the OpenAPI document as one plain page. No script, nothing from another machine: FastAPI's own
pages load theirs from a CDN, and this server's people may be offline, or mean to stay local."""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import HTMLResponse

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:"
    "light dark}pre{overflow:auto;border:1px solid #8886;padding:.6rem;font-size:.85rem}code{font-size:.9em}"
    "h2{margin-top:3rem}table{border-collapse:collapse}td{padding:.15rem .8rem .15rem 0;vertical-align:top}"
)
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}


def install_docs(app: FastAPI) -> None:
    async def docs(request: Request) -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()), headers=_HEADERS)

    app.add_route("/docs", docs, methods=["GET"], include_in_schema=False)


def docs_page(document: dict[str, Any]) -> str:
    """The whole page. Texts of the document are escaped; its Markdown is shown as it is written."""
    return "".join(_page(document))


def _page(document: dict[str, Any]) -> Iterator[str]:
    info = document["info"]
    yield f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>"
    yield f"<style>{_STYLE}</style><h1>{escape(info['title'])} {escape(info['version'])}</h1>"
    yield f"<p>{_text(info['description'])}</p>"
    yield "<p>For programs: <a href=openapi.json>openapi.json</a> (OpenAPI 3.1).</p><ul>"
    operations = [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    for title, operation in operations:
        yield f"<li><a href='#{escape(operation['operationId'])}'>{escape(title)}</a>"
    yield "</ul>"
    for title, operation in operations:
        yield from _operation(title, operation)
    yield "<h2>Schemas</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _schema(name, schema)


def _operation(title: str, operation: dict[str, Any]) -> Iterator[str]:
    yield f"<h2 id='{escape(operation['operationId'])}'>{escape(title)}</h2>"
    yield f"<p>{_text(operation.get('description', ''))}</p>"
    for parameter in operation.get("parameters", ()):
        yield f"<p><code>{escape(parameter['name'])}</code> ({escape(parameter['in'])}): "
        yield f"{_text(parameter.get('description', ''))}</p>"
    if "requestBody" in operation:
        yield "<h3>Body</h3>"
        yield from _content(operation["requestBody"])
    yield "<h3>Answers</h3>"
    for status, response in operation["responses"].items():
        yield f"<p><b>{escape(status)}</b> {_text(response['description'])}</p>"
        if status == "200":
            yield from _content(response)


def _content(part: dict[str, Any]) -> Iterator[str]:
    for media_type, content in part.get("content", {}).items():
        yield f"<p><code>{escape(media_type)}</code> {_type(content.get('schema', {}))}</p>"
        if "example" in content:
            yield _example(content["example"])
        for example in content.get("examples", {}).values():
            yield f"<p>{_text(example['summary'])}:</p>{_example(example['value'])}"


def _example(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text)}</pre>"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"<h3 id='{escape(name)}'>{escape(name)}</h3><p>{_text(schema.get('description', ''))}</p><table>"
    required = schema.get("required", ())
    for field, facts in schema.get("properties", {}).items():
        needed = " (required)" if field in required else ""
        yield f"<tr><td><code>{escape(field)}</code>{needed}<td>{_type(facts)}"
        yield f"<td>{_text(facts.get('description', ''))}</tr>"
    yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """`string or null`, `list of Message`, `"stop" or "length"`, with links to the schemas."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        values = schema.get("enum") or [schema["const"]]
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = "".join(f", {word} {schema[key]}" for key, word in words.items() if key in schema)
    return escape(str(schema.get("type", "anything"))) + limits


def _text(text: str) -> str:
    """Escaped; what stands between backquotes as code."""
    parts = escape(" ".join(text.split())).split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
