"""A pull that is interrupted, killed, or not alone."""

from __future__ import annotations

import json
import signal

from tests.hub.conftest import NAME, Machine, StartProcess, model_files
from tests.hub.stand_in import Fault, Hub
from tests.process.watch import until

WEIGHTS = "model.safetensors"


def test_ctrl_c_leaves_a_state_that_the_next_pull_goes_on_from(
    hub: Hub, machine: Machine, start: StartProcess
) -> None:
    files = model_files(3_000_000)
    hub.add(NAME, files)
    hub.storage_faults[WEIGHTS] = Fault(hold_after=2_000_000, times=1)
    process = start("pull", NAME, "--json")
    assert hub.holding.wait(60)
    until(lambda: any(path.stat().st_size >= 1_000_000 for path in machine.partials()), 60)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    hub.release.set()
    assert process.returncode == 130
    assert json.loads(out)["error"]["type"] == "interrupted"
    assert "the same command goes on from there" in err
    (partial,) = machine.partials()
    have = partial.stat().st_size
    assert "unhealthy" in machine.mlxk("list", "--json").out
    result = machine.mlxk("pull", NAME, "--json").data["models"][0]
    assert result["downloaded_bytes"] == len(files[WEIGHTS]) - have
    assert [one.range for one in hub.gets(WEIGHTS) if one.path.startswith("/storage/")][
        -1
    ] == f"bytes={have}-"


def test_a_killed_pull_is_gone_on_with_too(hub: Hub, machine: Machine, start: StartProcess) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults[WEIGHTS] = Fault(hold_after=2_000_000, times=1)
    process = start("pull", NAME)
    assert hub.holding.wait(60)
    until(lambda: any(path.stat().st_size >= 1_000_000 for path in machine.partials()), 60)
    process.kill()
    process.wait()
    hub.release.set()
    have = machine.partials()[0].stat().st_size
    result = machine.mlxk("pull", NAME, "--json").data["models"][0]
    assert result["health"] == "healthy"
    assert [one.range for one in hub.gets(WEIGHTS) if one.path.startswith("/storage/")][
        -1
    ] == f"bytes={have}-"


def test_two_pulls_of_one_model_bring_it_once(hub: Hub, machine: Machine, start: StartProcess) -> None:
    hub.add(NAME, model_files(3_000_000))
    hub.storage_faults[WEIGHTS] = Fault(hold_after=1_000_000, times=1)
    first = start("pull", NAME)
    assert hub.holding.wait(60)
    second = start("pull", NAME)
    assert second.stderr is not None
    assert "another download" in second.stderr.readline()
    hub.release.set()
    first.communicate(timeout=60)
    out, _ = second.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert len([one for one in hub.gets(WEIGHTS) if one.path.startswith("/storage/")]) == 1
    assert out.startswith(f"pulled {NAME}: 0 B of ") or "is up to date" in out
