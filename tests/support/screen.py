"""A terminal that remembers: what a person sees who scrolls up, from what a program wrote."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
import threading

_TOKEN = re.compile(r"\x1b\[(?P<args>[?\d;]*)(?P<verb>[A-Za-z])|\x1b[()]?.|(?P<char>.)", re.DOTALL)


class Screen:
    """A pseudo terminal. A program writes to `slave`; `lines` are the scrollback and the window.

    It knows what a live view needs: carriage return, line feed, wrapping, cursor up, erase a line.
    """

    def __init__(self, columns: int = 80, rows: int = 24) -> None:
        self._master, self.slave = pty.openpty()
        self._rows = rows
        self.resize(columns, rows)
        self._cells: list[str] = [""]
        self._row = self._column = 0
        self._fed = threading.Lock()  # nobody looks while something is being drawn
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def resize(self, columns: int, rows: int) -> None:
        """The window's size as programs ask for it."""
        self._columns, self._rows = columns, rows
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    @property
    def lines(self) -> list[str]:
        """Every line, oldest first; trailing blanks left out."""
        with self._fed:
            shown = [line.rstrip() for line in self._cells]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    def close(self) -> list[str]:
        """What stands on it at the end."""
        os.close(self.slave)
        self._reader.join(120)
        return self.lines

    def _read(self) -> None:
        pending = b""
        while True:
            try:
                pending += os.read(self._master, 65536)
            except OSError:  # the last program has closed it
                os.close(self._master)
                return
            if not pending:
                return
            whole = pending.rpartition(b"\n")
            complete, pending = whole[0] + whole[1], whole[2]
            with self._fed:
                self._feed(complete.decode(errors="replace"))
            if pending and not re.search(rb"\x1b[^A-Za-z]*$", pending) and _whole(pending):
                with self._fed:
                    self._feed(pending.decode())
                pending = b""

    def _feed(self, text: str) -> None:
        for token in _TOKEN.finditer(text):
            char, verb = token["char"], token["verb"]
            count = int(token["args"]) if (token["args"] or "").isdigit() else 1
            if verb == "A":  # up, within the window
                self._row = max(self._row - count, len(self._cells) - self._rows, 0)
            elif verb == "K":
                self._cells[self._row] = ""
            elif char == "\r":
                self._column = 0
            elif char == "\n":
                self._down()
            elif char is not None and char >= " ":
                if self._column == self._columns:
                    self._column = 0
                    self._down()
                line = self._cells[self._row].ljust(self._column)
                self._cells[self._row] = line[: self._column] + char + line[self._column + 1 :]
                self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._cells):
            self._cells.append("")


def _whole(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True
