"""`mlxk doctor`: what is wrong on this machine, and what to do about it."""

from __future__ import annotations

import sys
from typing import Any

import click

from mlxk.cli.errors import CliError, ExitCode
from mlxk.cli.options import json_option
from mlxk.cli.output import print_data, printable, styled, wrap

EXAMPLES = """\b
Examples:
  mlxk doctor
  mlxk doctor --fix              ends orphaned processes, removes stale files
  mlxk doctor --json | jq -r '.data.findings[].message'"""

COLORS = {"ok": "green", "note": "yellow", "problem": "red"}
MARK_WIDTH = len("problem")


@click.command("doctor", short_help="Find what is wrong, and say what to do.", epilog=EXAMPLES)
@click.option("--fix", is_flag=True, help="End orphaned processes and remove stale files; lists each.")
@json_option
@click.pass_context
def command(context: click.Context, /, fix: bool, as_json: bool) -> None:
    """Look at the server, its leftovers, memory, versions, configuration, models, disk and port.

    Changes nothing without --fix. Exit code 1 if something is wrong; remarks alone are 0.
    """
    from mlxk.cli.checks.finding import summary

    fixed = _fix() if fix else []
    findings = examine()
    counts = summary(findings)
    failed = counts["problems"] > 0
    if as_json:
        data = {"findings": [one.as_data() for one in findings], "summary": counts, "fixed": fixed}
        text = f"{counts['problems']} found; `findings` says what to do"
        print_data("doctor", data, error=CliError("problems_found", text) if failed else None)
    else:
        for line in fixed:
            click.echo(printable(line))
        _print_report([one.as_data() for one in findings], counts)
    context.exit(ExitCode.ERROR if failed else ExitCode.OK)


def examine() -> list[Any]:
    """All findings, in the order of the report."""
    from mlxk.cli.checks import leftovers, memory, models, places, versions
    from mlxk.cli.checks.finding import Finding
    from mlxk.cli.checks.server import ServerView, look_at_server
    from mlxk.supervisor.leftovers import find_workers

    findings: list[Finding] = []
    home = list(places.check_home())
    if home and home[0].status == "problem" and not home[0].details:
        return home  # no home at all: nothing below has an answer
    workers = list(find_workers())
    server: ServerView = look_at_server()
    settings, configuration = models.check_configuration()
    findings += server.findings
    findings += leftovers.check_leftovers(workers)
    findings += memory.check_memory(server, workers)
    findings += configuration
    if settings is not None:
        findings += models.check_models(settings)
    findings += models.check_cache()
    findings += home
    findings += places.check_logs()
    findings += places.check_sockets()
    if settings is not None:
        findings += places.check_port(settings, server.instance)
    findings += versions.check_versions()
    return findings


def _fix() -> list[str]:
    from mlxk.cli.checks.leftovers import remove_leftovers

    return remove_leftovers()


def _print_report(findings: list[dict[str, Any]], counts: dict[str, int]) -> None:
    name_width = max(len(one["check"]) for one in findings)
    indent = " " * (MARK_WIDTH + 2 + name_width + 2)
    for one in findings:
        mark = styled(one["status"].ljust(MARK_WIDTH), COLORS[one["status"]], sys.stdout)
        lines = printable(one["message"], keep_lines=True).splitlines() or [""]
        first, *rest = [part for line in lines for part in wrap(line, indent)]
        click.echo(f"{mark}  {one['check'].ljust(name_width)}  {first[len(indent) :]}")
        for line in rest:
            click.echo(line)
        if one["advice"]:
            for line in wrap(f"-> {printable(one['advice'])}", indent, hang=3):
                click.echo(line)
    click.echo(_verdict(counts))


def _verdict(counts: dict[str, int]) -> str:
    words = [
        f"{counts[key]} {key if counts[key] != 1 else key.removesuffix('s')}"
        for key in ("problems", "notes")
        if counts[key]
    ]
    return ", ".join(words) if words else "all is well"
