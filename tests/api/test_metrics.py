"""GET /metrics against a real server: exact numbers, and counters that never go back."""

from __future__ import annotations

import gzip
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

import mlxk
from tests.api.client import CHAT, Client, chat_body, wait_until
from tests.api.scrape import Scrape, scrape
from tests.server import Server, add_fake_model, standing

SLOW = {"step_s": 0.02}
MODELS: dict[str, dict[str, Any]] = {
    "org/exact": {},
    "org/left": SLOW,
    "org/queue": SLOW,
    "org/killed": SLOW,
    "org/evicted": {},
    "org/stopped": SLOW,
    "org/load": {"step_s": 0.002},
    "org/broken": {"load_fails": True},
    "org/picky": {"fail_request": "unspeakable"},
    "org/one": {},
}
ENV = {
    "MLXK_ENGINE": "fake",
    "MLXK_SPARE": "0",
    "MLXK_MAX_BATCH": "2",
    "MLXK_MAX_MEMORY": "100GB",
    "MLXK_CACHE": "1MB",
    "MLXK_QUEUE_PER_MODEL": "1",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = tmp_path_factory.mktemp("metrics")
    for name, faults in MODELS.items():
        add_fake_model(home, name, **faults)
    with standing(Server(home, env=ENV)) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Client:
    return Client(server.url)


def wait_for(client: Client, name: str, expected: float, **labels: str) -> Scrape:
    """Until that sum is as expected: an answer's last byte is a moment before the end of its job."""
    last: list[Scrape] = []

    def is_there() -> bool:
        last[:] = [scrape(client)]
        return last[0].value(name, **labels) == expected

    wait_until(is_there, show=lambda: last[0].value(name, **labels))
    return last[0]


def test_answers_are_counted_exactly(client: Client) -> None:
    model = "org/exact"
    usages = [
        client.chat(model, "one question", max_tokens=5)["usage"],
        client.chat(model, "one question", max_tokens=5)["usage"],
        client.chat(model, "another one", max_tokens=4, n=2)["usage"],
        client.text(model, ["a prompt", "and a longer prompt"], max_tokens=3)["usage"],
        client.stream_chat(model, "streamed", max_tokens=7).usage,
    ]
    bad = client.post(CHAT, chat_body(model, "x", temperature=9))
    assert bad.status == 400
    wait_for(client, "mlxk_generations_total", 7, model=model)
    # Of the caches it shows what the worker said last, where that does not say it anew at once.
    seen = wait_for(client, "mlxk_model_cache_entries", 5, model=model)
    assert seen.by("mlxk_generations_total", "finish", model=model) == {"length": 7}
    assert seen.value("mlxk_generated_tokens_total", model=model) == 5 + 5 + 8 + 6 + 7
    assert sum(usage["completion_tokens"] for usage in usages if usage) == 31
    n_inter_token = 31 - 7  # every token but the first of each
    assert seen.value("mlxk_inter_token_seconds_count", model=model) == n_inter_token
    assert seen.value("mlxk_time_to_first_token_seconds_count", model=model) == 7
    assert seen.value("mlxk_queue_wait_seconds_count", model=model) == 7
    assert seen.value("mlxk_model_load_seconds_count", model=model) == 1
    assert seen.by("mlxk_model_requests_total", "status", model=model) == {"200": 5}
    assert seen.by("mlxk_model_requests_total", "route", model=model) == {CHAT: 4, "/v1/completions": 1}
    assert not seen.by("mlxk_aborts_total", "cause", model=model)
    assert seen.by("mlxk_model_state", "state", model=model) == {"ready": 1}
    assert seen.value("mlxk_model_processes", model=model) == 1
    assert seen.value("mlxk_model_in_flight", model=model) == 0

    # The n choices of one prompt share it in `usage`; here each has asked the cache for itself.
    shared = usages[2]["prompt_tokens"]
    prompt_tokens = sum(usage["prompt_tokens"] for usage in usages if usage) + shared
    assert seen.value("mlxk_prompt_tokens_total", model=model) == prompt_tokens
    cache = client.cache(model)
    assert seen.value("mlxk_cache_hits_total", model=model) == cache["hits"] == 2
    assert seen.value("mlxk_cache_misses_total", model=model) == cache["misses"] == 5
    assert seen.value("mlxk_prompt_cached_tokens_total", model=model) == cache["reused_tokens"] > 0
    assert seen.value("mlxk_model_cache_entries", model=model) == cache["entries"] == 5
    assert seen.value("mlxk_model_cache_bytes", model=model) == cache["bytes"] == 500
    assert seen.value("mlxk_model_cache_limit_bytes", model=model) == 1_000_000
    assert seen.value("mlxk_model_memory_bytes", model=model) > 1_000_000
    reserved = seen.value("mlxk_model_memory_reserved_bytes", model=model)
    assert 1_000_000 < reserved <= seen.value("mlxk_model_memory_limit_bytes", model=model)
    assert seen.value("mlxk_memory_limit_bytes") == 100_000_000_000


def test_errors_have_their_code_and_status(client: Client) -> None:
    assert client.post(CHAT, chat_body("org/picky", "an unspeakable word")).status == 500
    assert client.post(CHAT, chat_body("org/broken", "x")).status == 503
    assert client.post(CHAT, chat_body("org/unheard-of", "x")).status == 404
    seen = wait_for(client, "mlxk_generations_total", 1, model="org/picky", finish="engine_error")
    assert seen.by("mlxk_model_requests_total", "status", model="org/picky") == {"500": 1}
    assert seen.by("mlxk_generations_total", "finish", model="org/broken") == {"model_load_failed": 1}
    assert seen.by("mlxk_model_requests_total", "status", model="org/broken") == {"503": 1}
    assert seen.value("mlxk_model_load_seconds_count", model="org/broken") == 0
    assert wait_for(client, "mlxk_model_crashes_total", 1, model="org/broken")
    assert "unheard-of" not in str(seen.samples)


def test_a_client_that_leaves_is_an_abort_and_its_tokens_count(client: Client) -> None:
    model = "org/left"
    with client.stream(CHAT, chat_body(model, "hello", max_tokens=3000)) as stream:
        stream.first_content()
        during = scrape(client)
    assert during.value("mlxk_model_in_flight", model=model) == 1
    assert during.value("mlxk_generated_tokens_total", model=model) >= 1  # not only at the end
    seen = wait_for(client, "mlxk_aborts_total", 1, model=model, cause="client_gone")
    seen.assert_nothing_went_back(during)
    assert seen.by("mlxk_generations_total", "finish", model=model) == {"client_gone": 1}
    assert seen.by("mlxk_model_requests_total", "status", model=model) == {"200": 1}
    assert 1 <= seen.value("mlxk_generated_tokens_total", model=model) < 3000
    with client.whole(CHAT, chat_body(model, "hello", max_tokens=3000)):
        wait_for(client, "mlxk_model_in_flight", 1, model=model)
    seen = wait_for(client, "mlxk_aborts_total", 2, model=model, cause="client_gone")
    assert seen.by("mlxk_model_requests_total", "status", model=model) == {"200": 1, "499": 1}


def test_the_queue_is_seen_and_waits_are_measured(client: Client) -> None:
    model = "org/queue"
    client.chat(model, "load", max_tokens=1)
    first, second = (client.background(model, f"go {n}", max_tokens=2000) for n in range(2))
    with first, second:
        wait_for(client, "mlxk_model_in_flight", 2, model=model)
        with client.whole(CHAT, chat_body(model, "third", max_tokens=1)) as third:
            wait_for(client, "mlxk_model_queue_depth", 1, model=model)
            assert client.post(CHAT, chat_body(model, "fourth")).status == 429
            with_leaver = wait_for(client, "mlxk_generations_total", 1, model=model, finish="queue_full")
            assert with_leaver.value("mlxk_queue_wait_seconds_count", model=model) == 3
            first.leave()
            assert third.read().status == 200
        with client.whole(CHAT, chat_body(model, "fifth", max_tokens=3000)):
            wait_for(client, "mlxk_model_in_flight", 2, model=model)
            with client.whole(CHAT, chat_body(model, "sixth", max_tokens=1)):
                wait_for(client, "mlxk_model_queue_depth", 1, model=model)
            wait_for(client, "mlxk_model_queue_depth", 0, model=model)
    seen = wait_for(client, "mlxk_aborts_total", 4, model=model, cause="client_gone")
    assert seen.value("mlxk_queue_wait_seconds_count", model=model) == 5  # the sixth never got a worker
    assert seen.value("mlxk_generations_total", model=model) == 7
    assert seen.value("mlxk_model_in_flight", model=model) == 0


def test_a_killed_worker_takes_no_count_with_it(client: Client) -> None:
    model = "org/killed"
    client.chat(model, "hello", max_tokens=5)
    with client.stream(CHAT, chat_body(model, "hello", max_tokens=3000)) as stream:
        stream.first_content()
        before = scrape(client)
        assert before.value("mlxk_cache_hits_total", model=model) == 1
        os.kill(client.pool()[model]["pid"], signal.SIGKILL)
        answer = stream.collect()
    assert answer.error is not None
    dead = wait_for(client, "mlxk_model_crashes_total", 1, model=model)
    dead.assert_nothing_went_back(before)
    assert dead.by("mlxk_aborts_total", "cause", model=model) == {"crash": 1}
    assert dead.by("mlxk_model_requests_total", "status", model=model) == {"200": 2}
    tokens = dead.value("mlxk_generated_tokens_total", model=model)
    assert tokens >= 5 + len(answer.content.split())
    client.chat(model, "hello", max_tokens=5)
    again = wait_for(client, "mlxk_generations_total", 2, model=model, finish="length")
    again.assert_nothing_went_back(dead)
    assert again.value("mlxk_generated_tokens_total", model=model) == tokens + 5
    assert again.value("mlxk_model_restarts_total", model=model) == 1
    assert again.value("mlxk_model_load_seconds_count", model=model) == 2
    assert again.value("mlxk_cache_hits_total", model=model) == 1
    assert again.value("mlxk_cache_misses_total", model=model) == 2  # the new process knows nothing
    assert client.cache(model)["misses"] == 1


def test_an_evicted_model_keeps_its_counts(client: Client) -> None:
    model = "org/evicted"
    client.chat(model, "hello", max_tokens=5)
    before = scrape(client)
    client.chat(model, "hello", max_tokens=5, keep_alive=0)
    gone = wait_for(client, "mlxk_model_state", 1, model=model, state="absent")
    gone.assert_nothing_went_back(before)
    assert gone.by("mlxk_model_evictions_total", "reason", model=model) == {"keep_alive": 1}
    assert gone.value("mlxk_generated_tokens_total", model=model) == 10
    assert gone.value("mlxk_cache_hits_total", model=model) == 1
    for name in ("memory_bytes", "memory_reserved_bytes", "cache_entries", "cache_bytes", "processes"):
        assert gone.value(f"mlxk_model_{name}", model=model) == 0
    client.chat(model, "hello", max_tokens=5)
    again = wait_for(client, "mlxk_generations_total", 3, model=model)
    again.assert_nothing_went_back(gone)
    assert again.value("mlxk_model_load_seconds_count", model=model) == 2
    assert again.value("mlxk_model_restarts_total", model=model) == 0


def test_a_stop_and_a_reload_keep_the_counts(client: Client, server: Server) -> None:
    model = "org/stopped"
    with client.background(model, "hello", max_tokens=3000) as stream:
        stream.wait_more()
        before = scrape(client)
        assert client.request("DELETE", f"/pool/{model}?now=true").status == 200
    stopped = wait_for(client, "mlxk_aborts_total", 1, model=model, cause="stop")
    stopped.assert_nothing_went_back(before)
    server.call("reload")
    scrape(client).assert_nothing_went_back(stopped)


def test_scrapes_under_load_are_whole_and_only_grow(client: Client) -> None:
    model = "org/load"
    statuses: list[int] = []

    def ask(number: int) -> None:
        bodies = [chat_body(model, f"{number} {turn}", max_tokens=60) for turn in range(5)]
        statuses.extend(client.post(CHAT, body).status for body in bodies)

    client.chat(model, "load", max_tokens=1)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    last, n_scrapes = scrape(client), 1
    while any(thread.is_alive() for thread in threads) or n_scrapes < 10:
        current = scrape(client)
        current.assert_nothing_went_back(last)
        last, n_scrapes = current, n_scrapes + 1
    for thread in threads:
        thread.join()
    assert statuses == [200] * 15
    seen = wait_for(client, "mlxk_generations_total", 16, model=model)
    assert seen.value("mlxk_generated_tokens_total", model=model) == 15 * 60 + 1


def test_what_clients_make_up_is_no_label(client: Client) -> None:
    client.get("/no/such/path-of-mine")
    client.get("/v1/models/my-own-name")
    client.request("DELETE", "/pool/my-own-name")
    assert client.request("HEAD", "/health").status == 200
    seen = scrape(client)
    routes = set(seen.by("mlxk_http_requests_total", "route"))
    assert {"other", "/v1/models/{model}", "/pool/{model}", "/metrics", "/health"} <= routes
    assert "my-own-name" not in str(seen.samples)
    assert "path-of-mine" not in str(seen.samples)
    assert seen.value("mlxk_http_connections") >= 1
    assert seen.value("mlxk_http_requests_in_flight") == 1


# ---------------------------------------------------------------------------- formats


def test_openmetrics_for_those_who_ask(client: Client) -> None:
    """Its parser is the strict one: suffixes, units, order, the end mark."""
    wanted = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
    reply = client.get("/metrics", headers={"Accept": wanted})
    assert reply.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in parse_openmetrics(reply.body.decode())}
    assert {"mlxk_build", "mlxk_generations", "mlxk_inter_token_seconds"} <= families


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "application/openmetrics-text;q=0, */*", ";;,="])
def test_the_text_format_for_all_others(client: Client, accept: str) -> None:
    reply = client.get("/metrics", headers={"Accept": accept})
    assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert any(text_string_to_metric_families(reply.body.decode()))


def test_compressed_where_that_is_understood(client: Client) -> None:
    client.chat("org/one", "so that there is something", max_tokens=1)
    reply = client.get("/metrics", headers={"Accept-Encoding": "br, gzip"})
    assert reply.headers["content-encoding"] == "gzip"
    assert b"mlxk_build_info{" in gzip.decompress(reply.body)
    assert "content-encoding" not in client.get("/metrics", headers={"Accept-Encoding": "gzip;q=0"}).headers


def test_a_server_with_keys_and_a_deadline(tmp_path: Path) -> None:
    home = tmp_path / "home"
    add_fake_model(home, "slow", **SLOW)
    env = {**ENV, "MLXK_API_KEY": "sesame", "MLXK_REQUEST_TIMEOUT": "1s"}
    with standing(Server(home, env=env)) as server:
        assert Client(server.url).get("/metrics").status == 401
        client = Client(server.url, {"Authorization": "Bearer sesame"})
        seen = scrape(client)
        assert seen.value("mlxk_http_requests_total", route="/metrics", status="401") == 1
        assert seen.value("mlxk_build_info", version=mlxk.__version__, engine="fake") == 1
        assert seen.value("mlxk_spare_ready") == 0
        assert "mlxk_model_state" in seen.families  # also without a model
        assert client.post(CHAT, chat_body("slow", "x", max_tokens=3000)).status == 503
        late = wait_for(client, "mlxk_aborts_total", 1, model="slow", cause="deadline")
        assert late.by("mlxk_generations_total", "finish", model="slow") == {"deadline_exceeded": 1}
        assert late.by("mlxk_model_requests_total", "status", model="slow") == {"503": 1}


# ---------------------------------------------------------------------------- the page


def test_the_page_and_the_server_say_the_same(client: Client) -> None:
    client.chat("org/one", "so that all series are there", max_tokens=2)
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(mlxk_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    documented = {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert len(documented) == len(rows)
    accept = {"Accept": "application/openmetrics-text"}
    families = list(parse_openmetrics(client.get("/metrics", headers=accept).body.decode()))
    exposed = {}
    for family in families:
        kind = {"counter": "_total", "info": "_info"}.get(family.type, "")
        labels = {frozenset(set(sample.labels) - {"le"}) for sample in family.samples}
        assert len(labels) == 1, f"{family.name} has no samples, or different labels: {labels}"
        exposed[family.name + kind] = (family.type, labels.pop())
    assert documented == exposed
