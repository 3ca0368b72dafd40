"""aziot-edged: gets edgeAgent's identity from identityd and keeps its container running. Runs as iotedge.

In the order of the real one: the device's identity (waited for), the network of the modules, an authority of its own, the
modules of an earlier life stopped, or removed where they belonged to another device, the sockets, and then the watchdog.
"""

import base64
import hashlib
import json
import os
import shutil
import signal
import sys
import threading
import time

import journal
import renewal
import serve
import settings
import wire
import workload
from docker import OWNER, Engine, EngineError
from journal import Failure, info, warn
from serve import Refusal

IDENTITYD = settings.ROOT + "/run/aziot/identityd.sock"
KEYD = settings.ROOT + "/run/aziot/keyd.sock"
CERTD = settings.ROOT + "/run/aziot/certd.sock"
HOME = settings.ROOT + "/var/lib/aziot/edged"
CACHE = HOME + "/cache"
AGENT = "edgeAgent"
EDGE_CA = "aziot-edged-ca"
MANAGEMENT, WORKLOAD = "/var/run/iotedge/mgmt.sock", "/var/run/iotedge/workload.sock"

# Between two attempts at an identity, and between two looks at the container; what a module has to stop; seconds.
RETRY = 5
WATCHDOG = 60
STOP = 30


def network_name(config):
    network = config["moby_runtime"]["network"]
    return network if isinstance(network, str) else network.get("name", "azure-iot-edge")


# The device.


def reprovision():
    """What was known of the device is forgotten, and identityd asks DPS."""
    shutil.rmtree(CACHE, ignore_errors=True)
    wire.ask(IDENTITYD, "POST", "/identities/device/reprovision", {"type": "aziot"})


def device_info(config):
    """The device's identity; waits as long as it takes."""
    if config.get("auto_reprovisioning_mode") == "AlwaysOnStartup":
        try:
            reprovision()
        except (OSError, wire.WireError) as error:
            raise Failure("Reprovision on startup failed", str(error)) from None
    while True:
        info("Obtaining Edge device provisioning data...")
        try:
            device = wire.ask(IDENTITYD, "POST", "/identities/device", {"type": "aziot"})["spec"]
            info(f"Device is {device['deviceId']} on {device['hubName']}")
            return device
        except OSError as error:
            warn(f"Failed to obtain device identity: {error}")
            warn("Identity Service was unreachable. Waiting for Identity Service startup.")
        except (wire.WireError, KeyError, TypeError) as error:
            warn(f"Failed to obtain device identity: {error}")
            info("Requesting device reprovision")
            try:
                reprovision()
            except (OSError, wire.WireError) as error:
                warn(f"Failed to reprovision: {error}")
        time.sleep(RETRY)


def digest(device):
    named = {"device_id": device["deviceId"], "gateway_host_name": device["gatewayHost"], "hub_name": device["hubName"]}
    return base64.b64encode(hashlib.sha256(json.dumps(named, separators=(",", ":")).encode()).digest()).decode("ascii")


def update_cache(engine, device):
    """Modules belong to a device: those of another one, with its keys in their environment, are removed."""
    info("Detecting if device information has changed...")
    path, current = f"{CACHE}/provisioning_state", digest(device)
    try:
        with open(path, encoding="ascii") as file:
            cached = file.read()
    except FileNotFoundError:
        cached = ""
    if cached == current:
        info("Device information has not changed")
        return
    info("Change to device information detected")
    info("Removing all modules...")
    for container in engine.owned():
        engine.remove(container["Id"])
    info("Removed all modules")
    os.makedirs(CACHE, mode=0o755, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(current)


def stop_all(engine, when):
    info("Stopping all modules...")
    try:
        for container in engine.owned():
            engine.stop(container["Id"], STOP)
        info("All modules stopped")
    except EngineError as error:
        warn(f"Failed to stop modules on {when}: {error}")


def check_edge_ca(device):
    """The authority that signs the modules' certificates, made where there is none."""
    try:
        key = wire.ask(KEYD, "POST", f"/keypair/{EDGE_CA}", {"preferred": "rsa-2048"})["pem"]
        try:
            wire.ask(CERTD, "GET", f"/certificates/{EDGE_CA}")
            info("Using existing Edge CA certificate")
            return
        except wire.WireError:
            info("Requesting new Edge CA certificate...")
        import est  # only where an authority is made: once in a device's life

        csr = est.request(key, f"aziot-edge CA {device['deviceId']}")
        wire.ask(CERTD, "POST", f"/certificates/{EDGE_CA}", {"csr": csr})
        info("Created new Edge CA certificate")
    except (OSError, wire.WireError, KeyError, TypeError) as error:
        raise Failure("failed to create edge ca cert", str(error)) from None


def renew_edge_ca(engine, device):
    """A new authority, by a new key; modules that run are started again, edgeAgent last, to ask for certificates of it."""
    wire.ask(KEYD, "DELETE", f"/keypair/{EDGE_CA}")
    key = wire.ask(KEYD, "POST", f"/keypair/{EDGE_CA}", {"preferred": "rsa-2048"})["pem"]
    import est

    csr = est.request(key, f"aziot-edge CA {device['deviceId']}")
    wire.ask(CERTD, "POST", f"/certificates/{EDGE_CA}", {"csr": csr})
    running = [at for at in engine.owned() if at["State"] == "running"]
    if not any(f"/{AGENT}" in at["Names"] for at in running):
        info("Agent not running; skipping module restart")
        return
    stop_all(engine, "renewal of the edge CA")
    for container in sorted(running, key=lambda at: f"/{AGENT}" in at["Names"]):
        engine.start(container["Id"])


# edgeAgent.


def agent_generation():
    """edgeAgent's identity at the hub, with keys for it."""
    wire.ask(IDENTITYD, "GET", "/identities/modules/%24edgeAgent")
    agent = wire.ask(IDENTITYD, "PUT", "/identities/modules/%24edgeAgent", {"managedBy": "IotEdge"})
    if not isinstance(agent, dict) or not agent.get("generationId"):
        raise wire.WireError("$edgeAgent identity missing generation ID")
    return agent["generationId"]


def environment(config, device, generation):
    found = {
        "IOTEDGE_IOTHUBHOSTNAME": device["hubName"],
        "IOTEDGE_DEVICEID": device["deviceId"],
        "IOTEDGE_MODULEID": "$edgeAgent",
        "IOTEDGE_MODULEGENERATIONID": generation,
        "IOTEDGE_AUTHSCHEME": "sasToken",
        "IOTEDGE_APIVERSION": "2022-08-03",
        "IOTEDGE_WORKLOADURI": f"unix://{WORKLOAD}",
        "IOTEDGE_MANAGEMENTURI": f"unix://{MANAGEMENT}",
        "IOTEDGE_WORKLOADLISTEN_MNTURI": f"unix://{workload.FOLDER}",
        "EdgeDeviceHostName": config["hostname"],
        "Mode": "iotedged",
        "NetworkId": network_name(config),
    }
    if device["gatewayHost"].lower() != device["hubName"].lower():
        found["IOTEDGE_GATEWAYHOSTNAME"] = device["gatewayHost"]
    return config["agent"].get("env", {}) | found


def specification(config, device, generation):
    """What the engine is asked to create. It is an end point of the modules' network, and its network mode is nobody's choice."""
    module = config["agent"]
    body = json.loads(json.dumps(module["config"].get("createOptions", {})))
    image = module["config"]["image"]
    body["Image"] = image
    body["Env"] = body.get("Env", []) + [
        f"{name}={value}" for name, value in environment(config, device, generation).items()
    ]
    host = body.setdefault("HostConfig", {})
    host["Binds"] = host.get("Binds", []) + [
        f"{MANAGEMENT}:{MANAGEMENT}",
        f"{workload.path(AGENT)}:{WORKLOAD}",
    ]
    body.setdefault("NetworkingConfig", {}).setdefault("EndpointsConfig", {}).setdefault(network_name(config), {})
    body["Labels"] = body.get("Labels", {}) | {
        "net.azure-devices.edge.create-options": "{}",
        "net.azure-devices.edge.env": "{}",
        "net.azure-devices.edge.original-image": image,
        OWNER: "Microsoft.Azure.Devices.Edge.Agent",
    }
    return body


def create_agent(engine, config, device):
    info(f"Creating and starting Edge runtime module {AGENT}...")
    body = specification(config, device, agent_generation())
    image = body["Image"]
    if config["agent"].get("imagePullPolicy", "on-create") == "on-create":
        info(f"Pulling image via tag {image}...")
        engine.pull(image)
    elif not engine.has_image(image):
        raise EngineError(f"image {image} is not in the local store, and the pull policy is never")
    engine.create(AGENT, body)
    info(f"Created Edge runtime module {AGENT}")


def watch_agent(engine, config, device, sockets):
    """One look of the watchdog: the container is there, and runs."""
    info("Watchdog checking Edge runtime status")
    found = engine.container(AGENT)
    if found is not None and found["State"].get("Dead"):
        engine.remove(AGENT)
        found = None
    if found is None:
        create_agent(engine, config, device)
    elif found["State"]["Running"]:
        info("Edge runtime is running")
        return
    # Before it starts: what is bound into it must be there, or the engine makes a folder of that name.
    sockets.listen(AGENT)
    engine.start(AGENT)
    info(f"Started Edge runtime module {AGENT}")


# The management API.


def modules(engine):
    listed = []
    for container in engine.owned():
        name = container["Names"][0].lstrip("/")
        state = {"status": container["State"], "description": container["Status"]}
        listed.append({"name": name, "image": container["Image"], "status": state})
    return {"modules": listed}


def management(engine):
    def handle(method, path, _body, _uid):
        if (method, path.rstrip("/")) == ("GET", "/modules"):
            try:
                return modules(engine)
            except EngineError as error:
                raise Refusal(500, str(error)) from None
        if (method, path.rstrip("/")) == ("GET", "/systeminfo"):
            return {"osType": "linux", "version": settings.VERSION}
        raise Refusal(404, "no such resource")

    return handle


def run(engine, config):
    wire.wake(IDENTITYD)
    device = device_info(config)
    info("Initializing module runtime...")
    engine.check_version()
    info(f"Using runtime network id {network_name(config)}")
    engine.ensure_network(network_name(config))
    check_edge_ca(device)
    if "edge_ca_auto_renew" in config:
        renewal.watch(
            "Edge CA",
            config["edge_ca_auto_renew"],
            lambda: wire.ask(CERTD, "GET", f"/certificates/{EDGE_CA}")["pem"],
            lambda: renew_edge_ca(engine, device),
        )
    stop_all(engine, "startup")
    update_cache(engine, device)
    sockets = workload.Sockets(lambda: modules(engine))
    inherited = serve.inherited()
    for name, listener in inherited.items():
        handler = sockets.handler if name == "workload" else management(engine)
        threading.Thread(target=serve.forever, args=(listener, handler), daemon=True).start()
    info("Starting watchdog with 60 second period...")
    while True:
        try:
            watch_agent(engine, config, device, sockets)
        except (EngineError, OSError, wire.WireError) as error:
            warn(f"Error in watchdog: {error}")
        time.sleep(WATCHDOG)


def main():
    journal.start(settings.VERSION)
    try:
        config = settings.load("edged")
    except settings.SettingsError as error:
        journal.error(str(error))
        return settings.NO_CONFIG
    engine = Engine(config["moby_runtime"]["uri"])

    def leave(*_):
        info("Watchdog stopped")
        stop_all(engine, "shutdown")
        sys.exit(0)

    signal.signal(signal.SIGTERM, leave)
    try:
        run(engine, config)
    except (EngineError, Failure) as error:
        return journal.fatal(error, "aziot-edged failed")
