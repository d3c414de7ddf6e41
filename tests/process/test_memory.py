"""Memory is one budget: caches are trimmed first, turns are bounded both ways, peaks are remembered."""

from __future__ import annotations

import json
import os
import stat
import threading
from contextlib import ExitStack
from pathlib import Path

from tests.process.client import Request
from tests.process.conftest import StartServer
from tests.process.test_room import pad_weights
from tests.process.watch import count_spawns, pid_of, until
from tests.server import Server, add_fake_model, is_alive

MB = 1_000_000
FOREVER = 1_000_000


def complete(server: Server, model: str, **body: object) -> None:
    with Request(server, model, **body) as request:
        request.text()


# ------------------------------------------------------------------------ trim, then evict


def test_an_idle_cache_is_trimmed_before_anybody_is_evicted_and_its_memory_comes_back(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, entry_bytes=20 * MB)
    # Each needs about 170 MB and 200 MB of cache: both fit only if one gives most of its cache away.
    server = start(max_memory="600MB", cache="200MB")
    for i in range(5):
        complete(server, "a", prompt=f"prompt {i}")
    full = server.wait_for(lambda models: models["a"]["cache"]["bytes"] >= 100 * MB and models["a"])
    complete(server, "b")
    # `ps` shows what a worker said last, where it does not answer at once.
    models = server.wait_for(lambda models: models["a"]["cache"]["bytes"] < full["cache"]["bytes"] and models)
    assert set(models) == {"a", "b"}
    assert models["a"]["pid"] == full["pid"]
    assert models["a"]["memory_bytes"] < full["memory_bytes"] - 15 * MB
    assert "trimming the prefix cache of a" in server.log()
    assert "evicting" not in server.log()


def test_a_busy_models_cache_is_left_alone_and_the_other_request_waits(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, entry_bytes=20 * MB, step_s=0.005)
    server = start(max_memory="600MB", cache="200MB")
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        with Request(server, "b") as waiting:
            server.wait_for(lambda models: models.get("b", {}).get("queued") == 1)
            for _ in range(20):
                assert "error" not in running.next_event()
            assert "trimming" not in server.log()
            running.hang_up()
            waiting.text()
    assert set(server.ps()) == {"a", "b"}


# ------------------------------------------------------------------------- pinned, preload


def test_a_pinned_model_is_never_a_victim_and_the_refusal_names_it(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name)
    (tmp_path / "config.toml").write_text("[models.a]\npinned = true\npreload = true\nkeep_alive = 0\n")
    server = start("--max-models", "1")
    server.wait_for(lambda models: models.get("a", {}).get("state") == "ready")
    pid = pid_of(server, "a")
    with Request(server, "b") as request:
        error = request.error()
    assert request.status == 503
    assert error["code"] == "insufficient_memory"
    assert "a " in error["message"]
    assert "pinned" in error["message"]
    assert request.response.headers["Retry-After"]
    assert pid_of(server, "a") == pid
    assert server.ps()["a"]["until"] == -1


def test_memory_is_back_before_the_next_spawn(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, hold_bytes=60 * MB, ignore_sigterm=True, deaf_to_shutdown=True)
    server = start("--max-models", "1", stop_grace="300ms")
    complete(server, "a")
    old = pid_of(server, "a")
    answered = threading.Event()

    def ask() -> None:
        complete(server, "b")
        answered.set()

    asking = threading.Thread(target=ask)
    asking.start()
    both = 0
    while not answered.is_set():  # as often as we can: at no moment do both exist
        both += is_alive(old) and len(server.worker_pids()) > 1
    asking.join()
    assert both == 0
    assert not is_alive(old)


# ------------------------------------------------------------------------------- turns


class Traffic:
    """Clients that ask for one model again the moment they are answered."""

    def __init__(self, server: Server, model: str, clients: int) -> None:
        self.answers = 0
        self.errors: list[object] = []
        self._server, self._model = server, model
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._ending.is_set():
            with Request(self._server, self._model) as request:
                if request.status != 200:
                    self.errors.append(request.json())
                    return
                request.json()
            self.answers += 1

    def __enter__(self) -> Traffic:
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()


def test_steady_traffic_does_not_starve_who_waits_for_room_and_neither_fails(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.02)
    server = start("--max-models", "1", swap_after="500ms")
    with Traffic(server, "a", 4) as traffic:
        until(lambda: traffic.answers > 4 or traffic.errors)
        complete(server, "b")  # it would wait for ever behind four clients that never pause
        before = traffic.answers
        until(lambda: traffic.answers > before + 4 or traffic.errors)  # and they get their model back
    assert traffic.errors == []


def test_two_models_under_steady_traffic_take_turns_and_do_not_thrash(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.01)
    server = start("--max-models", "1", swap_after="1s")
    began = count_spawns(server)
    with Traffic(server, "a", 3) as a, Traffic(server, "b", 3) as b:
        waited_s = until(lambda: (a.answers > 40 and b.answers > 40) or a.errors or b.errors, timeout_s=60)
    assert a.errors == b.errors == []
    spawns = count_spawns(server) - began
    assert spawns <= waited_s + 3, "a turn lasted for less than swap_after"


def test_a_turn_serves_the_whole_batch_that_queued_for_it(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    server = start("--max-models", "1", swap_after="0s", max_batch="1")
    with Request(server, "a", words=FOREVER, stream=True) as running, ExitStack() as stack:
        running.next_event()
        batch = [stack.enter_context(Request(server, "b")) for _ in range(4)]
        server.wait_for(lambda models: models.get("b", {}).get("queued") == 4)
        late = stack.enter_context(Request(server, "a"))
        server.wait_for(lambda models: models["a"]["queued"] == 1)
        running.hang_up()
        for request in batch:
            request.text()
        late.text()
    assert server.log().count("b is ready on") == 1, "b was swapped out before its batch was served"


# ------------------------------------------------------------------------- waits and refusals


def test_no_wait_at_all_refuses_only_where_it_would_have_to_wait(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005, load_s=0.2)
    server = start("--max-models", "1", max_wait="0")
    complete(server, "a")  # a cold load is no wait for others
    complete(server, "b")  # nor is the end of an idle model
    with Request(server, "b", words=FOREVER, stream=True) as running:
        running.next_event()
        with Request(server, "a") as refused:
            error = refused.error()
        assert refused.status == 503
        assert error["code"] == "insufficient_memory"
        assert "busy with 1" in error["message"]
        assert "error" not in running.next_event()


def test_who_waits_too_long_for_room_is_told_who_holds_it(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    server = start("--max-models", "1", max_wait="500ms")
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        with Request(server, "b") as refused:
            error = refused.error()
        assert refused.status == 503
        assert refused.response.headers["Retry-After"]
        assert "a " in error["message"]
        assert "mlxk stop" in error["message"]
        assert "error" not in running.next_event()


def test_an_unload_that_races_a_swap_does_not_resurrect_the_model(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    server = start("--max-models", "1")
    with Request(server, "a", words=FOREVER, stream=True) as running, Request(server, "b") as waiting:
        running.next_event()
        server.wait_for(lambda models: models.get("b", {}).get("queued") == 1)
        server.call("stop", {"models": ["b", "a"], "now": True})
        assert waiting.error()["code"] == "model_stopped"
    spawned = count_spawns(server)
    complete(server, "a")
    assert set(server.ps()) == {"a"}
    assert count_spawns(server) == spawned + 1


def test_the_idle_timer_racing_a_grant_never_gives_an_error(start: StartServer, tmp_path: Path) -> None:
    add_fake_model(tmp_path, "a")
    server = start(keep_alive="0")
    with Traffic(server, "a", 2) as traffic:
        until(lambda: server.log().count("evicting a") >= 3 or traffic.errors, timeout_s=60)
    assert traffic.errors == []


# ----------------------------------------------------------------------------- remembered


def test_a_measured_peak_is_remembered_by_the_next_server(start: StartServer, tmp_path: Path) -> None:
    pad_weights(add_fake_model(tmp_path, "a", hold_bytes=50 * MB, load_s=0.3), 20 * MB)
    first = start(cache="10MB")
    before = first.call("load", {"models": ["a"], "dry_run": True})["models"][0]
    assert before["need_source"] == before["load_s_source"] == "estimated"
    complete(first, "a")
    first.close()
    second = start(cache="10MB")
    after = second.call("load", {"models": ["a"], "dry_run": True})["models"][0]
    assert after["need_source"] == after["load_s_source"] == "measured"
    assert 60 * MB < after["need_bytes"] < before["need_bytes"]
    assert after["load_s"] >= 0.3
    second.close()
    other_budget = start(cache="20MB")
    assert other_budget.call("load", {"models": ["a"], "dry_run": True})["models"][0]["need_source"] == (
        "estimated"
    )


def test_a_file_of_peaks_that_is_broken_or_cannot_be_written_hurts_nobody(
    start: StartServer, tmp_path: Path
) -> None:
    add_fake_model(tmp_path, "a")
    (tmp_path / "measured.json").write_bytes(b'{"version": 1, "models": [\xff')
    server = start()
    complete(server, "a")
    server.close()
    assert json.loads((tmp_path / "measured.json").read_bytes())["version"] == 1
    (tmp_path / "measured.json").unlink()
    (tmp_path / "measured.json").mkdir()
    server = start()
    complete(server, "a")
    server.close()
    assert server.process.returncode in (0, 130)
    assert "cannot be remembered" in server.log()
    assert stat.S_ISDIR(os.stat(tmp_path / "measured.json").st_mode)
    assert not list(tmp_path.glob("measured.json.*"))


# ------------------------------------------------------------------------------ dry runs


def test_a_dry_run_says_what_a_load_would_do_and_does_nothing(start: StartServer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        add_fake_model(tmp_path, name, step_s=0.005)
    pad_weights(add_fake_model(tmp_path, "big"), 900 * MB)
    server = start("--max-models", "1", max_memory="700MB", cache="10MB")

    def plan(name: str) -> dict[str, object]:
        models: list[dict[str, object]] = server.call("load", {"models": [name], "dry_run": True})["models"]
        return models[0]

    assert plan("a")["verdict"] == "fits"
    assert server.ps() == {}
    complete(server, "a")
    pid, spawned = pid_of(server, "a"), count_spawns(server)
    assert plan("a")["verdict"] == "loaded"
    evicting = plan("b")
    assert (evicting["verdict"], [one["name"] for one in evicting["evict"]]) == ("makes_room", ["a"])  # type: ignore[attr-defined]
    assert plan("big")["verdict"] == "never_fits"
    with Request(server, "a", words=FOREVER, stream=True) as running:
        running.next_event()
        waiting = plan("b")
        assert (waiting["verdict"], [one["name"] for one in waiting["wait_for"]]) == ("waits", ["a"])  # type: ignore[attr-defined]
        assert "error" not in running.next_event()
    shown = server.cli("load", "--dry-run", "b")
    assert shown.returncode == 0
    assert "b: " in shown.stdout
    hopeless = server.cli("load", "--dry-run", "--json", "big")
    assert hopeless.returncode == 6
    assert "--max-memory" in json.loads(hopeless.stdout)["error"]["message"]
    assert server.cli("load", "--dry-run", "nobody").returncode == 4
    assert (pid_of(server, "a"), count_spawns(server)) == (pid, spawned)


def test_metals_working_set_is_the_limit_where_none_is_configured(start: StartServer, tmp_path: Path) -> None:
    add_fake_model(tmp_path, "a")
    server = start(fake_start=json.dumps({"working_set_bytes": 2_000 * MB}))
    complete(server, "a")
    assert server.call("ps")["server"]["memory_limit_bytes"] == 2_000 * MB
    server.close()
    server = start(fake_start=json.dumps({"working_set_bytes": 2_000 * MB}), max_memory="1GB")
    complete(server, "a")
    assert server.call("ps")["server"]["memory_limit_bytes"] == 1_000 * MB


def test_a_stop_tells_what_the_process_held(start: StartServer, tmp_path: Path) -> None:
    add_fake_model(tmp_path, "a", hold_bytes=80 * MB)
    server = start()
    complete(server, "a")
    held = server.ps()["a"]["memory_bytes"]
    (stopped,) = server.call("stop", {"models": ["a"]})["models"]
    assert stopped["freed_bytes"] > 80 * MB
    assert abs(stopped["freed_bytes"] - held) < 10 * MB


def test_a_full_model_refuses_who_waits_too_long_with_a_time_to_try_again(
    start: StartServer, tmp_path: Path
) -> None:
    add_fake_model(tmp_path, "a", step_s=0.005)
    server = start(max_batch="1", max_wait="3s", queue_per_model="1")
    with Request(server, "a", words=FOREVER, stream=True) as running, ExitStack() as stack:
        running.next_event()
        waiting = stack.enter_context(Request(server, "a"))
        server.wait_for(lambda models: models["a"]["queued"] == 1)
        with Request(server, "a") as too_many:
            assert too_many.error()["code"] == "queue_full"
        assert too_many.status == 429
        assert too_many.response.headers["Retry-After"]
        assert waiting.error()["code"] == "deadline_exceeded"
        assert waiting.status == 503
        assert waiting.response.headers["Retry-After"]


def test_keep_alive_is_the_requests_else_the_models_else_the_servers(
    start: StartServer, tmp_path: Path
) -> None:
    for name in ("own", "plain"):
        add_fake_model(tmp_path, name)
    (tmp_path / "config.toml").write_text('[models.own]\nkeep_alive = "1h"\n')
    server = start("--keep-alive", "10m")

    def until_of(name: str, **body: object) -> float:
        complete(server, name, **body)
        left = server.wait_for(lambda models: models[name]["until"] is not None and models[name])["until"]
        assert isinstance(left, int | float)
        return left

    assert 500 < until_of("plain") <= 600
    assert 3500 < until_of("own") <= 3600
    assert 80 < until_of("own", keep_alive="90s") <= 90
    assert 80 < until_of("own", keep_alive=90) <= 90
    assert until_of("plain", keep_alive=-1) == -1
    complete(server, "plain", keep_alive=0)
    server.wait_for(lambda models: "plain" not in models)
