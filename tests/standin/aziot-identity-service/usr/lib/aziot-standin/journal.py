"""What the services say, in the form of the real ones (iot-identity-service, `logger` and `aziotd`), and how they end.

    2026-11-26T12:00:00Z [INFO] - Starting service...
    2026-11-26T12:00:06Z [ERR!] - service encountered an error
    2026-11-26T12:00:06Z [ERR!] - caused by: DPS client error
    2026-11-26T12:00:06Z [ERR!] - caused by: Invalid certificate
    2026-11-26T12:00:06Z [ERR!] -    0: …                              a backtrace of some twenty lines

Then the process exits with status 1, and systemd adds two lines of its own and starts it again. systemd takes the priority
in angle brackets off.
"""

import time

PRIORITIES = {"INFO": 6, "WARN": 4, "ERR!": 3}
# Lines of a backtrace; frames without a name make up for what Python has fewer than the real one.
BACKTRACE = 20


class Failure(Exception):
    """Something failed; the texts are the error and its causes, the outermost first."""

    def __init__(self, *texts, network=False):
        super().__init__(texts[0])
        self.texts = texts
        # Nobody was reached, as against: somebody refused.
        self.network = network

    def message(self):
        """As the APIs answer it."""
        return "\ncaused by: ".join(self.texts)


def say(level, text):
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    print(f"<{PRIORITIES[level]}>{stamp} [{level}] - {text}", flush=True)


def info(text):
    say("INFO", text)


def warn(text):
    say("WARN", text)


def error(text):
    say("ERR!", text)


def backtrace(failure):
    import traceback  # slow to read, and only for those who fail

    frames = list(reversed(traceback.extract_tb(failure.__traceback__)))
    lines = []
    for number, frame in enumerate(frames):
        lines += [f"{number:>4}: aziot_standin::{frame.name}", f"             at {frame.filename}:{frame.lineno}"]
    number = len(frames)
    while len(lines) < BACKTRACE:
        lines.append(f"{number:>4}: <unknown>")
        number += 1
    return "\n".join(lines)


def fatal(failure, outermost="service encountered an error"):
    """The last words; returns the exit status."""
    error(outermost)
    for text in getattr(failure, "texts", [str(failure)]):
        error(f"caused by: {text}")
    error(backtrace(failure))
    return 1


def start(version):
    info("Starting service...")
    info(f"Version - {version}")
