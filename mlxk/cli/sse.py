"""Server-sent events, from bytes as they come off the socket to the text of each event's data."""

from __future__ import annotations

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""More without an event's end is no stream of ours; stop before it eats the memory."""


class EventTooLongError(Exception):
    """An event grew beyond MAX_EVENT_BYTES."""


class EventReader:
    """Feed it pieces cut anywhere: in a line end, in a character, in the byte order mark."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """The line that has not ended yet."""
        self._data: list[bytes] = []
        """Data lines of the event that has not ended yet."""
        self._size = 0
        self._after_cr = False
        self._at_start = True

    def feed(self, piece: bytes) -> list[str]:
        """The data of all events that `piece` completes. Raises EventTooLongError."""
        if not piece:
            return []
        if self._after_cr and piece.startswith(b"\n"):
            piece = piece[1:]  # the second half of a line end
        self._after_cr = piece.endswith(b"\r")
        events = []
        # A line ends at \n, \r\n or \r, which is just what bytes.splitlines does.
        for line in piece.splitlines(keepends=True):
            self._rest += line
            self._size += len(line)
            if self._size > MAX_EVENT_BYTES:
                raise EventTooLongError(f"an event of over {MAX_EVENT_BYTES} bytes")
            if line.endswith((b"\n", b"\r")):
                event = self._end_line(bytes(self._rest).rstrip(b"\r\n"))
                self._rest.clear()
                if event is not None:
                    events.append(event)
        return events

    def _end_line(self, line: bytes) -> str | None:
        if self._at_start:
            line = line.removeprefix(b"\xef\xbb\xbf")
            self._at_start = False
        if not line:
            return self._end_event()
        field, _, value = line.partition(b":")  # a comment is a line whose field is empty
        if field == b"data":
            self._data.append(value.removeprefix(b" "))
        elif not self._data:
            self._size = 0  # heartbeats over hours are no long event
        return None

    def _end_event(self) -> str | None:
        lines, self._data, self._size = self._data, [], 0
        # Decoded only now: a character may come in two pieces, but never in two lines.
        return b"\n".join(lines).decode("utf-8", errors="replace") if lines else None
