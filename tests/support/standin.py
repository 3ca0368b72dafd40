"""Runs the stand-in's services below a folder, each on sockets of its own, as systemd hands them over.

    standin.py SERVICE…     in the order in which they are started; ends with the last one's exit status

The folder is STANDIN_ROOT, the modules are found by PYTHONPATH. `aziot-edged` meets an engine that is written here: it keeps
containers in memory, and in `engine.json` what it was asked.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import serve

ROOT = os.environ["STANDIN_ROOT"]
SOCKETS = {
    "keyd": ["/run/aziot/keyd.sock"],
    "certd": ["/run/aziot/certd.sock"],
    "identityd": ["/run/aziot/identityd.sock"],
    "edged": ["/var/run/iotedge/mgmt.sock", "/var/run/iotedge/workload.sock"],
}
NAMES = {"edged": "mgmt:workload"}
FIRST_FD = 3
PATIENCE = 20


def listening(path):
    path = ROOT + path
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)
    made = socket.socket(socket.AF_UNIX)
    made.bind(path)
    made.listen(64)
    return made


def start(service):
    sockets = [listening(path) for path in SOCKETS[service]]
    # Out of the way of the numbers that they are handed over by.
    kept = [fcntl.fcntl(one.fileno(), fcntl.F_DUPFD, 64) for one in sockets]

    def hand_over():
        for at, descriptor in enumerate(kept):
            os.dup2(descriptor, FIRST_FD + at)

    command = 'LISTEN_PID=$$ exec "$0" -B -c "$1"'
    program = f"import sys, {service}; sys.exit({service}.main())"
    environment = os.environ | {"LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": NAMES.get(service, "")}
    return subprocess.Popen(
        ["sh", "-c", command, sys.executable, program], preexec_fn=hand_over, close_fds=False, env=environment
    )


class FakeEngine:
    def __init__(self):
        self.asked = []
        try:
            with open(f"{ROOT}/containers.json", encoding="utf-8") as file:
                self.containers = json.load(file)
        except FileNotFoundError:
            self.containers = {}

    def handle(self, method, path, body, _uid):
        parts = path.strip("/").split("/")[1:]
        if method != "GET":
            self.asked.append([method, "/".join(parts), body])
        with open(f"{ROOT}/engine.json.new", "w", encoding="utf-8") as file:
            json.dump(self.asked, file)
        os.rename(f"{ROOT}/engine.json.new", f"{ROOT}/engine.json")
        match (method, parts):
            case ("GET", []):
                return {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}
            case ("GET", ["containers", "json"]):
                return list(self.containers.values())
            case ("POST", ["containers", "create"]):
                self.containers["edgeAgent"] = {
                    "Id": "edgeAgent", "Names": ["/edgeAgent"], "Labels": body["Labels"], "Image": body["Image"],
                    "State": "created", "Status": "Created",
                }
                return {"Id": "edgeAgent"}
            case ("GET", ["containers", name, "json"]) if name in self.containers:
                return {"Config": {"Labels": {}}, "State": {"Running": False}}
            case ("GET", ["images", *_]):
                return {"Id": "sha256:0"}
            case ("DELETE", ["containers", name]):
                self.containers.pop(name, None)
                return None
            case ("POST", _):
                return None
        raise serve.Refusal(404, "no such resource")


def end(process):
    """As systemd ends a service: it is asked, and then made to."""
    process.terminate()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main(services):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    engine = listening("/var/run/docker.sock")
    threading.Thread(target=serve.forever, args=(engine, FakeEngine().handle), daemon=True).start()
    started = [start(service) for service in services]
    try:
        # A signal that comes just before a wait without end is only looked at after it.
        while started[-1].poll() is None:
            time.sleep(0.1)
        return started[-1].returncode
    finally:
        for process in reversed(started):
            end(process)


sys.exit(main(sys.argv[1:]))
