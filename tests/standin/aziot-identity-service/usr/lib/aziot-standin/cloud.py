"""Requests to the cloud over TLS, with the device's certificate: how often they are tried, and what a refusal says."""

import json
import os
import socket
import time
import urllib.parse

import wire
from journal import Failure, warn

# After the first, second ... 429, seconds; then it is given up.
THROTTLED = (60, 120, 180, 300)
# Between two attempts to connect, seconds.
PAUSE = 3


def no_certificate(text):
    return Failure("internal error", "could not create certificate", text)


def context(chain, key):
    """Trusts the system's certificate authorities and nothing else."""
    import ssl  # slow to read: at this point keyd and certd are starting anyway

    made = ssl.create_default_context()
    # A memory file, for the library reads keys only from paths.
    held = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        os.write(held, f"{chain}\n{key}\n".encode())
        made.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
    except ssl.SSLError as error:
        why = f"the certificate and private key cannot be used together: {error}"
        raise no_certificate(why) from None
    finally:
        os.close(held)
    return made


def request(client, context, url, method, target, body, headers, timeout, retries):
    """One request over TLS: again as often as cloud_retries says when the connection fails, and after a 429."""
    parts = urllib.parse.urlsplit(url)
    failed = throttled = 0
    while True:
        try:
            stream = socket.create_connection((parts.hostname, parts.port or 443), timeout=timeout)
            stream = context.wrap_socket(stream, server_hostname=parts.hostname)
            status, answer = wire.request(stream, method, target, parts.hostname, body, headers)
        except (OSError, wire.WireError) as error:
            failed += 1
            warn(f"Failed to send HTTP request (attempt {failed} of {retries + 1}): {error}")
            if failed > retries:
                raise Failure(client, f"{parts.hostname}: {error}", network=True) from None
            time.sleep(PAUSE)
            continue
        if status != 429:
            return status, answer
        if throttled == len(THROTTLED):
            raise Failure(client, "429: Too many requests")
        pause = THROTTLED[throttled]
        throttled += 1
        attempts = f"attempt {throttled} of {len(THROTTLED) + 1}"
        warn(f"HTTP request throttled ({attempts}). Sleeping for {pause} seconds.")
        time.sleep(pause)


def text(answer):
    return json.dumps(answer)[:500]


def refusal(status, answer):
    """What a service says in its own form of an error; DPS and the hub differ."""
    if isinstance(answer, dict):
        for name in ("message", "Message", "errorMessage"):
            if isinstance(answer.get(name), str):
                return answer[name]
    return f"HTTP error {status}" if answer is None else f"HTTP error {status}: {text(answer)}"
