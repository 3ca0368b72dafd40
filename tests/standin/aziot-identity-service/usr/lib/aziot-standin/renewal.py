"""Certificates are renewed before they end, as the real one's `cert-renewal` does it: by a policy (`80%` of the certificate's life,
or `30min`, `5day` before its end), and again after `retry` where it failed."""

import re
import threading
import time

import x509
from journal import info, warn

UNITS = {"min": 60, "day": 86400}
# The longest sleep, seconds: a clock that is set meanwhile is noticed.
LOOK = 60
# Between two renewals, seconds.
PAUSE = 5
DEFAULT = {"rotate_key": True, "threshold": "80%", "retry": "4%"}


class PolicyError(Exception):
    """A policy that is none."""


def duration(text, life):
    """Seconds that a policy's text means, of a certificate that lives so long."""
    match = re.fullmatch(r"([1-9][0-9]{0,8})(%|min|day)", str(text))
    if match is None or (match[2] == "%" and int(match[1]) >= 100):
        raise PolicyError(f"{text!r} is no renewal policy: expected 1% to 99%, or minutes or days as in 30min, 5day")
    return life * int(match[1]) / 100 if match[2] == "%" else int(match[1]) * UNITS[match[2]]


def due(leaf, threshold):
    """When a certificate is to be renewed, seconds since 1970."""
    seconds = duration(threshold, leaf.ends - leaf.begins)
    return leaf.begins + seconds if str(threshold).endswith("%") else leaf.ends - seconds


def sleep_until(moment):
    while (left := moment - time.time()) > 0:
        time.sleep(min(left, LOOK))


def forever(name, policy, load, renew):
    """`load` gives the chain there is, `renew` makes another in its place; both raise what went wrong."""
    while True:
        try:
            leaf = x509.Leaf(load())
            sleep_until(due(leaf, policy["threshold"]))
            renew()
            info(f"{name} was renewed")
            # A threshold that is past at once makes no storm of it.
            time.sleep(PAUSE)
        except PolicyError as error:
            warn(str(error))
            return
        except Exception as error:  # whatever it was, the certificate still holds a while
            life = leaf.ends - leaf.begins if "leaf" in locals() else UNITS["day"]
            pause = duration(policy["retry"], life)
            warn(f"{name} could not be renewed: {error}; again in {pause:.0f} s")
            sleep_until(time.time() + pause)


def watch(name, policy, load, renew):
    """In the background."""
    arguments = (name, DEFAULT | policy, load, renew)
    threading.Thread(target=forever, args=arguments, daemon=True).start()
