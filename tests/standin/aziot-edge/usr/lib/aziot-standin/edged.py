"""aziot-edged: gets edgeAgent's identity from identityd and keeps its container running. Runs as iotedge."""

import hashlib
import json
import signal
import sys
import threading
import time

import serve
import settings
import wire
from docker import Engine, EngineError
from serve import Refusal, log

IDENTITYD = settings.ROOT + "/run/aziot/identityd.sock"
AGENT = "edgeAgent"
OWNER = "net.azure-devices.edge.owner"
CREATED_FROM = "net.azure-devices.edge.created-from"
SOCKETS = ("/var/run/iotedge/mgmt.sock", "/var/run/iotedge/workload.sock")

# Between two attempts at an identity, and between two looks at the container, seconds.
RETRY = 5
WATCHDOG = 60


def network_name(config):
    network = config["moby_runtime"]["network"]
    return network if isinstance(network, str) else network.get("name", "azure-iot-edge")


def identities():
    """The device's and edgeAgent's identity, in the order in which the real one asks; waits as long as it takes."""
    while True:
        try:
            device = wire.ask(IDENTITYD, "POST", "/identities/device", {"type": "aziot"})["spec"]
            wire.ask(IDENTITYD, "GET", "/identities/modules")
            wire.ask(IDENTITYD, "GET", "/identities/modules/%24edgeAgent")
            agent = wire.ask(IDENTITYD, "PUT", "/identities/modules/%24edgeAgent", {"managedBy": "IotEdge"})
            return device, agent
        except (OSError, wire.WireError, KeyError, TypeError) as error:
            log(f"no identity yet: {error}; again in {RETRY} s")
            time.sleep(RETRY)


def specification(config, device, agent):
    """What the engine is asked to create."""
    module = config["agent"]
    body = json.loads(json.dumps(module["config"].get("createOptions", {})))
    env = {
        "IOTEDGE_IOTHUBHOSTNAME": device["hubName"],
        "IOTEDGE_DEVICEID": device["deviceId"],
        "IOTEDGE_MODULEID": "$edgeAgent",
        "IOTEDGE_MODULEGENERATIONID": agent.get("generationId", ""),
        "IOTEDGE_AUTHSCHEME": "sasToken",
        "IOTEDGE_APIVERSION": "2022-08-03",
        "IOTEDGE_WORKLOADURI": f"unix://{SOCKETS[1]}",
        "IOTEDGE_MANAGEMENTURI": f"unix://{SOCKETS[0]}",
        "EdgeDeviceHostName": config["hostname"],
        "Mode": "iotedged",
        "NetworkId": network_name(config),
    } | module.get("env", {})
    body["Image"] = module["config"]["image"]
    body["Env"] = body.get("Env", []) + [f"{name}={value}" for name, value in env.items()]
    host = body.setdefault("HostConfig", {})
    host["Binds"] = host.get("Binds", []) + [f"{path}:{path}" for path in SOCKETS]
    host["NetworkMode"] = network_name(config)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    body["Labels"] = body.get("Labels", {}) | {OWNER: "Microsoft.Azure.Devices.Edge.Agent", CREATED_FROM: digest}
    return body


def ensure_agent(engine, config, body):
    """One look of the watchdog: the container is there as it should be, and runs."""
    found = engine.container(AGENT)
    if found is not None and found["Config"]["Labels"].get(CREATED_FROM) != body["Labels"][CREATED_FROM]:
        log("edgeAgent's settings have changed: creating its container anew")
        engine.remove(AGENT)
        found = None
    if found is None:
        image = body["Image"]
        if config["agent"].get("imagePullPolicy", "on-create") == "on-create":
            log(f"pulling {image}")
            engine.pull(image)
        elif not engine.has_image(image):
            raise EngineError(f"image {image} is not in the local store, and the pull policy is never")
        engine.ensure_network(network_name(config))
        engine.create(AGENT, body)
        log("created the container edgeAgent")
    if found is None or not found["State"]["Running"]:
        engine.start(AGENT)
        log("started the container edgeAgent")


def modules(engine):
    listed = []
    for container in engine.containers():
        if OWNER in (container.get("Labels") or {}):
            name = container["Names"][0].lstrip("/")
            state = {"status": container["State"], "description": container["Status"]}
            listed.append({"name": name, "image": container["Image"], "status": state})
    return {"modules": listed}


def handler(engine):
    def handle(method, path, _body, _uid):
        if (method, path.rstrip("/")) == ("GET", "/modules"):
            try:
                return modules(engine)
            except EngineError as error:
                raise Refusal(500, str(error)) from None
        if (method, path.rstrip("/")) == ("GET", "/systeminfo"):
            return {"osType": "linux", "version": "0~standin"}
        raise Refusal(404, "no such resource")

    return handle


def watch(engine, config):
    wire.wake(IDENTITYD)
    engine.check_version()
    device, agent = identities()
    log(f"this is {device['deviceId']} at {device['hubName']}")
    body = specification(config, device, agent)
    while True:
        try:
            ensure_agent(engine, config, body)
        except EngineError as error:
            log(f"edgeAgent: {error}; again in {WATCHDOG} s")
        time.sleep(WATCHDOG)


def main():
    try:
        config = settings.load("edged")
    except settings.SettingsError as error:
        log(str(error))
        return settings.NO_CONFIG
    engine = Engine(config["moby_runtime"]["uri"])

    def leave(*_):
        try:
            engine.stop(AGENT)
        except EngineError as error:
            log(f"stopping edgeAgent: {error}")
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    for listener in serve.inherited().values():
        threading.Thread(target=serve.forever, args=(listener, handler(engine)), daemon=True).start()
    try:
        watch(engine, config)
    except EngineError as error:
        log(str(error))
        return 1
