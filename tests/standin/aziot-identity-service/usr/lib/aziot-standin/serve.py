"""A small HTTP server on the sockets that systemd hands over; it knows its caller's uid."""

import json
import os
import socket
import struct
import sys
import threading
import traceback

import journal
import wire

FIRST_FD = 3


class Refusal(Exception):
    """An answer other than success."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status = status


def log(text):
    journal.info(text)


def inherited():
    """Name → listening socket."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        sys.exit("started without its sockets: systemctl start the .socket unit")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    count = int(os.environ.get("LISTEN_FDS", "0"))
    return {names[at] if at < len(names) else str(at): socket.socket(fileno=FIRST_FD + at) for at in range(count)}


def peer_uid(stream):
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


def answer(stream, handler):
    stream.settimeout(30)
    with stream, stream.makefile("rb") as source:
        if not source.peek(1):
            return  # somebody only wanted the service started
        first, headers = wire.read_head(source)
        method, target = first.split(" ")[:2]
        body = wire.decode(wire.read_body(source, headers, False))
        try:
            status, result = 200, handler(method, target.partition("?")[0], body, peer_uid(stream))
        except Refusal as refusal:
            status, result = refusal.status, {"message": str(refusal)}
        data = b"" if result is None else json.dumps(result).encode()
        head = f"HTTP/1.1 {204 if result is None else status} -\r\nContent-Type: application/json\r\n"
        stream.sendall(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)


def one(stream, handler):
    try:
        answer(stream, handler)
    except (OSError, ValueError, wire.WireError) as error:
        journal.warn(f"request failed: {error}")
    except Exception:  # a defect must show in the journal and not end the service
        traceback.print_exc()


def forever(listener, handler):
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=one, args=(stream, handler), daemon=True).start()


def run(handler):
    """Serves every inherited socket with one handler, in this thread and as many others as there are sockets."""
    listeners = list(inherited().values())
    for listener in listeners[1:]:
        threading.Thread(target=forever, args=(listener, handler), daemon=True).start()
    forever(listeners[0], handler)
