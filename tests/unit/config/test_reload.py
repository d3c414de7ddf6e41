from __future__ import annotations

from dataclasses import replace

from mlxk.config.reload import Changes, compare, effective
from mlxk.config.settings import ModelSettings, Settings

OLD = Settings(models={"a": ModelSettings("a", context_length=100), "b": ModelSettings("b", pinned=True)})


def models(**tables: ModelSettings) -> Settings:
    return replace(OLD, models={**OLD.models, **tables})


def test_the_same_settings_change_nothing() -> None:
    assert compare(OLD, replace(OLD, sources={"port": "flag"})) == Changes()


def test_each_change_says_when_it_takes_effect() -> None:
    changes = compare(OLD, replace(OLD, keep_alive_s=1, log_level="debug", port=1, max_batch=2))
    assert changes.applied == ("keep_alive", "log_level")
    assert changes.needs_restart == ("port",)
    assert changes.next_load == ("max_batch",)


def test_the_doors_change_at_once() -> None:
    doors = {"cors_origins": ("*",), "allowed_hosts": ("a.example",), "request_timeout_s": 1.0}
    times = {"receive_timeout_s": 1.0, "send_timeout_s": 1.0}
    changes = compare(OLD, replace(OLD, **doors, **times))
    names = ("allowed_hosts", "cors_origins", "receive_timeout", "request_timeout", "send_timeout")
    assert changes == Changes(applied=names)


def test_what_needs_a_restart_stays_as_it_is() -> None:
    settings = effective(OLD, replace(OLD, host="0.0.0.0", port=1, keep_alive_s=1))
    assert (settings.host, settings.port, settings.keep_alive_s) == (OLD.host, OLD.port, 1)


def test_a_model_is_restarted_for_what_it_was_loaded_with_and_for_nothing_else() -> None:
    kept = compare(OLD, models(a=ModelSettings("a", context_length=100, pinned=True, keep_alive_s=3)))
    assert (kept.models, kept.models_to_restart) == (("a",), ())
    for table in (ModelSettings("a"), ModelSettings("a", context_length=100, options={"x": 1})):
        assert compare(OLD, models(a=table)).models_to_restart == ("a",)


def test_an_alias_that_is_new_gone_or_points_elsewhere() -> None:
    alias = models(c=ModelSettings("c", path="/m/one"))
    assert compare(OLD, alias).models_to_restart == ("c",)
    assert compare(alias, OLD).models_to_restart == ("c",)
    assert compare(alias, models(c=ModelSettings("c", path="/m/two"))).models_to_restart == ("c",)
    assert compare(OLD, replace(OLD, models={})).models == ("a", "b")


def test_what_is_preloaded_now_and_was_not_before() -> None:
    new = models(b=ModelSettings("b", pinned=True, preload=True))
    assert compare(OLD, replace(new, preload=("x",))).models_to_load == ("x", "b")
    assert compare(new, new).models_to_load == ()
