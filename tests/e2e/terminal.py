"""npoctl on a pseudo-terminal."""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time

from harness import WAIT_S, Failure, check


class Terminal:
    """npoctl on a pseudo-terminal of so many columns."""

    def __init__(self, box, *args, columns=60):
        self.text = b""
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execve(box.programs.npoctl, box.ctl_args(*args),
                      {**box.environment(), "TERM": "xterm"})
        self.pid = pid
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self, timeout=0.1):
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                self.text += os.read(self.fd, 65536)
            except OSError:
                return False
        return True

    def wait_text(self, pattern, timeout=WAIT_S):
        deadline = time.monotonic() + timeout
        while not re.search(pattern, self.text.decode(errors="replace")):
            check(time.monotonic() < deadline, f"no {pattern!r} in {self.text[-500:]!r}")
            self.read()

    def wait(self, timeout=WAIT_S):
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.read(0.02)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                while self.read(0) and select.select([self.fd], [], [], 0)[0]:
                    pass
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise Failure("npoctl on a terminal does not end")
