"""What a scene is, what it is given, and what it gives back."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec

from bench.peers import CannotRun, Peer, Served


class Sample(msgspec.Struct, frozen=True):
    """One measurement of one peer in one round."""

    scene: str
    """For instance `a-throughput`."""
    case: str
    """For instance `short, greedy, 8 streams`: the row of the table."""
    model: str
    peer: str
    round: int
    values: dict[str, float]
    """What was measured; the unit ends the name: `ttft_ms_p50`, `tokens_per_s`, `front_bytes`."""
    turn: int = 0
    """Of several in one round (`bench.turns`): samples of the same turn are compared with each other."""


@dataclass(frozen=True)
class Target:
    """A bound that issue 6 set. Ratios and differences are medians of the rounds' own."""

    case: str
    model: str
    value: str
    versus: str | None = None
    """The peer it is compared with; None: the value itself is bounded."""
    at_least: float | None = None
    at_most: float | None = None
    difference: bool = False
    """ours - theirs, in the value's unit, instead of ours / theirs."""
    peer: str = "mlxk"


@dataclass(frozen=True)
class Context:
    """What a scene may use. A scene measures one round in each `run`."""

    peers: Sequence[Peer]
    models: dict[str, Path]
    rounds: int
    quick: bool
    round: int = 0
    trouble: list[str] = field(default_factory=list)
    """What went wrong; the report prints it, and the bench's exit status is 1."""

    def able(self, scene: str) -> list[Peer]:
        """The peers that can do this scene, in an order that turns with each round.

        Whoever came first in one round comes later in the next, so that a machine that gets slower (or
        warmer) during a round wrongs nobody.
        """
        able = [peer for peer in self.peers if not peer.unable and scene not in peer.cannot]
        turn = self.round % max(1, len(able))
        return able[turn:] + able[:turn]

    @contextlib.contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """A peer that fails in a case loses this sample; the run goes on and says so, each thing once."""
        try:
            yield
        except CannotRun as error:
            tell(self.trouble, str(error))
        except Exception as error:
            if interruption := _interruption(error):
                raise interruption from None
            tell(self.trouble, f"{what}: {type(error).__name__}: {' '.join(str(error).split())}")


def _interruption(error: BaseException) -> BaseException | None:
    """Ctrl-C (or SIGTERM), when what failed on the way out hides it."""
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, KeyboardInterrupt | SystemExit | GeneratorExit):
        seen = seen.__context__
    return seen


def tell(trouble: list[str], line: str) -> None:
    """On the screen at once too: a run may take an hour."""
    if line not in trouble:
        trouble.append(line)
        print(f"trouble: {line}", file=sys.stderr, flush=True)


class Scene(Protocol):
    name: str
    """Letter and word: `a-throughput`. The letter chooses it: `--scenes a`."""
    headline: str
    """The value that the bar chart shows."""

    # A scene may also have:
    #   columns: tuple[str, ...]       the values that the table shows, in this order (default: all)
    #   ratios: tuple[str, ...]        the values whose ratios the table shows (default: the headline's)
    #   targets: tuple[Target, ...]    the bounds that the report judges
    #   cannot: dict[str, str]         peer's name -> why it does not take part

    def run(self, context: Context) -> Iterable[Sample]: ...


__all__ = ["Any", "Context", "Peer", "Sample", "Scene", "Served", "tell"]
