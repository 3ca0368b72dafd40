"""aziot-identityd: who this device is. Runs as aziotid; asks keyd and certd for key and certificate, DPS for the hub,
and the hub for modules, with the device's certificate as TLS client.

As the real one it provisions before it answers anybody, and *exits* when it cannot: systemd starts it again, and whoever asks
meanwhile waits. What it knows of the hub it keeps, and does not ask DPS again at the next start.
"""

import json
import os
import threading
import time
import tomllib
import urllib.parse

import cloud
import journal
import renewal
import serve
import settings
import wire
import x509
from cloud import no_certificate, refusal, text
from journal import Failure, info, warn
from serve import Refusal

KEYD = settings.ROOT + "/run/aziot/keyd.sock"
CERTD = settings.ROOT + "/run/aziot/certd.sock"
# The hub and the device's name in it, for the next start. The ID scope is not looked at: who changes that, removes this.
STATE = settings.ROOT + "/var/lib/aziot/identityd/device_info"
DPS_VERSION = "2021-06-01"
HUB_VERSION = "2017-11-08-preview"
DPS_CLIENT, HUB_CLIENT = "DPS client error", "Hub client error"
MASTER_KEY = "aziot_identityd_master_id"

# Between the steps of a registration, seconds; DPS's Retry-After is not looked at.
DPS_STEP = 5


class Identityd:
    def __init__(self, config):
        self.config = config
        self.lock = threading.Lock()
        self.device = None
        self.generations = {}
        self.timeout = config.get("cloud_timeout_sec", 70)
        self.retries = config.get("cloud_retries", 1)

    # The device's key and certificate.

    def credentials(self):
        """Certificate chain, key and registration id."""
        attestation = self.config["provisioning"]["attestation"]
        if attestation.get("method") != "x509":
            raise Failure("internal error", f"attestation by {attestation.get('method')} is not part of the stand-in")
        wanted = attestation.get("registration_id")
        issued = attestation.get("issued", False)
        name = attestation["identity_pk"]
        try:
            key = self.key_pair(name, issued)
            chain, leaf = self.certificate(attestation["identity_cert"], name, key, wanted, issued)
        except (OSError, wire.WireError) as error:
            raise no_certificate(str(error)) from None
        if wanted is None and not leaf.common_name:
            raise no_certificate("identity certificate missing common name")
        return chain, key, wanted or leaf.common_name

    def key_pair(self, name, issued):
        if not issued:
            return wire.ask(KEYD, "GET", f"/keypair/{name}")["pem"]
        return wire.ask(KEYD, "POST", f"/keypair/{name}", {"preferred": "rsa-2048"})["pem"]

    def certificate(self, name, key_name, key, wanted, issued):
        """The certificate that is there; where it is one to be issued and is not there, a new one."""
        try:
            chain = wire.ask(CERTD, "GET", f"/certificates/{name}")["pem"]
            return chain, x509.Leaf(chain)
        except (OSError, wire.WireError, x509.CertificateError) as error:
            if issued:
                chain = self.issue(name, key, wanted)
                return chain, x509.Leaf(chain)
            if wanted is not None:
                # As the real one: it takes the pair for a half-finished renewal and starts over.
                warn(f"certificate cannot be used ({error}); deleting its key pair to create both anew")
                wire.ask(KEYD, "DELETE", f"/keypair/{key_name}")
                raise no_certificate(f"the identity certificate cannot be used: {error}") from None
            raise no_certificate(
                "identity cert does not exist; cannot create new cert as registration ID is unknown"
            ) from None

    def issue(self, name, key, common_name):
        import est

        info(f"having a certificate issued for {common_name}")
        try:
            csr = est.request(key, common_name)
        except est.EstError as error:
            raise no_certificate(str(error)) from None
        return wire.ask(CERTD, "POST", f"/certificates/{name}", {"csr": csr})["pem"]

    def cloud(self, client, context, url, method, target, body=None, headers=None):
        return cloud.request(client, context, url, method, target, body, headers, self.timeout, self.retries)

    # The Device Provisioning Service.

    def register(self):
        chain, key, registration = self.credentials()
        context = cloud.context(chain, key)
        provisioning = self.config["provisioning"]
        url = provisioning["global_endpoint"]
        name = urllib.parse.quote(registration, safe="")
        base = f"/{provisioning['scope_id']}/registrations/{name}"
        version = f"api-version={DPS_VERSION}"
        body = {"registrationId": registration} | self.payload()
        info("Sending DPS registration request.")
        status, answer = self.cloud(DPS_CLIENT, context, url, "PUT", f"{base}/register?{version}", body)
        if status != 202 or not isinstance(answer, dict) or "operationId" not in answer:
            raise Failure(DPS_CLIENT, refusal(status, answer))
        operation = urllib.parse.quote(str(answer["operationId"]), safe="")
        while True:
            time.sleep(DPS_STEP)
            info("Checking DPS registration status.")
            status, answer = self.cloud(DPS_CLIENT, context, url, "GET", f"{base}/operations/{operation}?{version}")
            if status not in (200, 202) or not isinstance(answer, dict):
                raise Failure(DPS_CLIENT, refusal(status, answer))
            if answer.get("status") != "assigning":
                return self.assigned(answer, registration)
            info("DPS registration is still in progress.")

    def payload(self):
        """What the configuration has for a custom allocation: a JSON file."""
        uri = self.config["provisioning"].get("payload", {}).get("uri")
        if uri is None:
            return {}
        try:
            with open(settings.file_path(uri), encoding="utf-8") as file:
                return {"payload": json.load(file)}
        except (OSError, ValueError, settings.SettingsError) as error:
            raise Failure("internal error", f"could not load the payload {uri}: {error}") from None

    def assigned(self, answer, registration):
        state = answer.get("registrationState")
        state = state if isinstance(state, dict) else {}
        hub, device = state.get("assignedHub"), state.get("deviceId")
        if answer.get("status") != "assigned" or not hub or not device:
            raise Failure(DPS_CLIENT, str(state.get("errorMessage") or text(answer)))
        info(f"Assigned to IoT hub: {hub}")
        return {"hub": hub, "device": device, "registration": registration}

    def provision(self):
        provisioning = self.config["provisioning"]
        if provisioning["source"] != "dps":
            why = f"provisioning source {provisioning['source']} is not part of the stand-in"
            raise Failure("internal error", why)
        device = self.register()
        info("Successfully provisioned with DPS.")
        return device

    def start(self):
        """Before anybody is answered: the device's hub, from the last start or from DPS, and a look at what it has there."""
        info("Provisioning starting. Reason: Startup")
        self.device = self.remembered()
        if self.device is None:
            self.device = self.provision()
        else:
            info(f"Provisioned with backup for {self.device['device']}.")
        info("Provisioning complete.")
        self.reconcile()

    def reconcile(self):
        info("Identity reconciliation started. Reason: Startup")
        try:
            self.hub("GET", "/modules")
        except Failure as failure:
            if failure.network:
                warn("Network not available for Identity reconciliation. Using offline backup from last run.")
                return
            info("Could not reconcile Identities with current device data. Reprovisioning.")
            self.device = self.provision()
            self.hub("GET", "/modules")
        self.remember(self.device)
        info("Identity reconciliation complete.")

    def watch(self):
        """The device's certificate, where it is issued and has a policy."""
        attestation = self.config["provisioning"].get("attestation", {})
        if not attestation.get("issued") or "auto_renew" not in attestation:
            return
        policy, name = attestation["auto_renew"], attestation["identity_cert"]
        renewal.watch(
            name,
            policy,
            lambda: wire.ask(CERTD, "GET", f"/certificates/{name}")["pem"],
            lambda: self.renew(attestation, policy.get("rotate_key", True)),
        )

    def renew(self, attestation, rotate):
        """A new certificate, by a new key where the policy says so; then DPS and the hub must learn of it."""
        import est

        name, kept = attestation["identity_cert"], attestation["identity_pk"]
        wanted, used = attestation["registration_id"], f"{kept}-temp" if rotate else kept
        key = wire.ask(KEYD, "POST", f"/keypair/{used}", {"preferred": "rsa-2048"})["pem"]
        csr = est.request(key, wanted)
        with self.lock:
            old = wire.ask(CERTD, "GET", f"/certificates/{name}")["pem"]
            wire.ask(CERTD, "POST", f"/certificates/{name}", {"csr": csr})
            try:
                if rotate:
                    wire.ask(KEYD, "POST", f"/move/{used}", {"to": kept})
            except (OSError, wire.WireError):
                wire.ask(CERTD, "PUT", f"/certificates/{name}", {"pem": old})
                raise
        self.reprovision()

    def known(self):
        with self.lock:
            if self.device is None:
                raise Failure("device identity not found")
            return self.device

    def reprovision(self):
        """Because somebody asks for it; until it has worked there is no device."""
        with self.lock:
            info("Provisioning starting. Reason: Api")
            self.device = None
            forget()
            self.device = self.provision()
            self.remember(self.device)
            info("Provisioning complete.")

    def remembered(self):
        try:
            with open(STATE, "rb") as file:
                saved = tomllib.load(file)
        except (OSError, ValueError):
            return None
        hub, device = saved.get("hub_name"), saved.get("device_id")
        if not isinstance(hub, str) or not isinstance(device, str):
            warn("Ignoring invalid device info backup")
            forget()
            return None
        return {"hub": hub, "device": device}

    def remember(self, device):
        # JSON's strings are TOML's.
        hub, name = json.dumps(device["hub"]), json.dumps(device["device"])
        with open(f"{STATE}.new", "w", encoding="utf-8") as file:
            file.write(f"hub_name = {hub}\nlocal_gateway_hostname = {hub}\ndevice_id = {name}\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{STATE}.new", STATE)

    # The hub.

    def hub(self, method, rest, body=None, headers=None):
        device = self.device or self.known()
        chain, key, _ = self.credentials()
        target = f"/devices/{urllib.parse.quote(device['device'], safe='')}{rest}?api-version={HUB_VERSION}"
        context, url = cloud.context(chain, key), f"https://{device['hub']}"
        status, answer = self.cloud(HUB_CLIENT, context, url, method, target, body, headers)
        if not 200 <= status < 300:
            raise Failure(HUB_CLIENT, refusal(status, answer))
        return answer

    def module(self, name):
        answer = self.hub("GET", f"/modules/{urllib.parse.quote(name, safe='')}")
        if not isinstance(answer, dict) or not answer.get("generationId"):
            raise Failure(HUB_CLIENT, f"the hub's answer for {name} has no generationId")
        self.generations[name] = answer["generationId"]
        return answer

    def update_module(self, name):
        generation = self.generations.get(name) or self.module(name)["generationId"]
        keys = {}
        for kind in ("primary", "secondary"):
            data = f"{name}:{generation}:{kind}"
            keys[f"{kind}Key"] = wire.ask(KEYD, "POST", f"/derive/{MASTER_KEY}", {"data": data})["key"]
        body = {
            "moduleId": name,
            "deviceId": self.known()["device"],
            "managedBy": "iotEdge",
            "authentication": {"type": "sas", "symmetricKey": keys},
        }
        answer = self.hub("PUT", f"/modules/{urllib.parse.quote(name, safe='')}", body, {"If-Match": "*"})
        answer = answer if isinstance(answer, dict) else {}
        return {"generationId": generation} | answer

    # The API on the socket.

    def handle(self, method, path, _body, uid):
        if method != "GET" and uid != 0 and uid not in [at.get("uid") for at in self.config.get("principal", [])]:
            raise Refusal(403, f"uid {uid} may not do this")
        try:
            return self.route(method, path)
        except Failure as failure:
            journal.error(failure.message())
            raise Refusal(500, failure.message()) from None
        except (OSError, wire.WireError) as error:
            journal.error(str(error))
            raise Refusal(500, str(error)) from None

    def route(self, method, path):
        parts = urllib.parse.unquote(path).strip("/").split("/")
        match (method, parts):
            case ("GET", ["identities", "provisioning"]):
                return self.provisioning()
            case ("POST", ["identities", "device"]):
                device = self.known()
                named = {"hubName": device["hub"], "gatewayHost": device["hub"], "deviceId": device["device"]}
                return {"type": "aziot", "spec": named}
            case ("POST", ["identities", "device", "reprovision"]):
                self.reprovision()
                return None
            case ("GET", ["identities", "modules"]):
                listed = self.hub("GET", "/modules")
                if not isinstance(listed, list):
                    raise Failure(HUB_CLIENT, "the hub's list of modules is no list")
                return {"identities": listed}
            case ("GET", ["identities", "modules", name]):
                return self.module(name)
            case ("PUT", ["identities", "modules", name]):
                return self.update_module(name)
        raise Refusal(404, "no such resource")

    def provisioning(self):
        provisioning = self.config["provisioning"]
        shown = {"source": provisioning["source"], "auth": provisioning.get("attestation", {}).get("method")}
        for name in ("global_endpoint", "scope_id", "payload"):
            shown[name] = provisioning.get(name)
        shown["provisioned"] = self.device is not None
        return shown


def forget():
    try:
        os.unlink(STATE)
    except FileNotFoundError:
        pass


def main():
    journal.start(settings.VERSION)
    try:
        config = settings.load("identityd")
    except settings.SettingsError as error:
        return journal.fatal(error, "could not read config")
    wire.wake(KEYD)
    wire.wake(CERTD)
    identityd = Identityd(config)
    try:
        identityd.start()
    except Failure as failure:
        journal.error(f"Failed to provision with IoT Hub, and no valid device backup was found: {failure}")
        return journal.fatal(failure)
    except (OSError, wire.WireError) as error:
        return journal.fatal(error)
    identityd.watch()
    info("Starting server...")
    serve.run(identityd.handle)
