"""What follows a step that raised: the request at fault fails, the others go on."""

from __future__ import annotations

import logging

from mlxk.workers.protocol import Failed, Fault, FaultCode, FaultError
from mlxk.workers.running_batch import RunningBatch
from mlxk.workers.sequences import Sequence

log = logging.getLogger("mlxk.worker")

MAX_RECOVERIES = 3


def recover(running: RunningBatch, error: Exception) -> list[Failed]:
    """Find out which sequence made the step raise, fail that one, and start the others again.

    The batch is in an unknown state, so it is thrown away. Each sequence first makes one step in a
    batch of its own; the ones that survive go on from the tokens they have. Their clients notice
    a pause and nothing else. What only fails in company is given up after MAX_RECOVERIES without a token.
    """
    log.error("a step failed, trying each of %d requests alone", len(running.by_uid), exc_info=error)
    survivors: list[Sequence] = []
    out: list[Failed] = []
    for sequence in list(running.by_uid.values()):
        running.forget(sequence)
        sequence.recoveries += 1
        failure = error if sequence.recoveries > MAX_RECOVERIES else _probe(running, sequence)
        if failure is None:
            survivors.append(sequence)
        else:
            out.append(failed(sequence, failure))
    running.renew()
    for sequence in survivors:
        running.insert(sequence, None, 0)
    return out


def _probe(running: RunningBatch, sequence: Sequence) -> Exception | None:
    """One decode step of this sequence alone; the exception if it cannot make one."""
    try:
        running.renew()
        running.insert(sequence, None, 0)
        while not running.step()[0]:
            pass
    except Exception as failure:
        return failure
    finally:
        running.forget(sequence)
    return None


def failed(sequence: Sequence, error: Exception) -> Failed:
    """The last word of a sequence that an exception has ended."""
    if isinstance(error, FaultError):
        return Failed(sequence.request.id, error.fault)
    message = f"The request failed in the engine: {type(error).__name__}: {error}"
    return Failed(sequence.request.id, Fault(FaultCode.ENGINE_ERROR, message))
