"""edged's workload API: one socket for each module, which is bound into its container under the name that all modules know.

    /var/lib/aziot/edged/mnt/edgeAgent.sock ─► /var/run/iotedge/workload.sock in edgeAgent's container, 0666

Answered are the list of modules and the bundle of authorities to trust; signatures and certificates are not part of the stand-in.
"""

import os
import socket
import threading

import serve
import settings
import wire
from journal import info
from serve import Refusal

FOLDER = settings.ROOT + "/var/lib/aziot/edged/mnt"
CERTD = settings.ROOT + "/run/aziot/certd.sock"
EDGE_CA = "aziot-edged-ca"
BACKLOG = 64


def path(module):
    return f"{FOLDER}/{module}.sock"


class Sockets:
    """The modules' sockets; `modules` lists the modules."""

    def __init__(self, modules):
        self.modules = modules
        self.listening = set()
        os.makedirs(FOLDER, mode=0o755, exist_ok=True)

    def listen(self, module):
        """A socket for a module, before its container starts. One that an earlier life left is no one's any more."""
        if module in self.listening:
            return
        at = path(module)
        try:
            os.unlink(at)
        except FileNotFoundError:
            pass
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(at)
        os.chmod(at, 0o666)
        listener.listen(BACKLOG)
        info(f"Starting new listener for module {module}")
        threading.Thread(target=serve.forever, args=(listener, self.handler), daemon=True).start()
        self.listening.add(module)

    def handler(self, method, target, _body, _uid):
        match (method, target.strip("/").split("/")):
            case ("GET", ["modules"]):
                return self.modules()
            case ("GET", ["trust-bundle"]):
                return {"certificate": self.certificate()}
        raise Refusal(404, "no such resource")

    def certificate(self):
        try:
            return wire.ask(CERTD, "GET", f"/certificates/{EDGE_CA}")["pem"]
        except (OSError, wire.WireError) as error:
            raise Refusal(500, str(error)) from None
