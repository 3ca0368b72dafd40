"""aziot-identityd: who this device is. Runs as aziotid; asks keyd and certd for key and certificate, DPS for the hub,
and the hub for modules, with the device's certificate as TLS client."""

import json
import os
import socket
import threading
import time
import urllib.parse

import serve
import settings
import wire
import x509
from serve import Refusal, log

KEYD = settings.ROOT + "/run/aziot/keyd.sock"
CERTD = settings.ROOT + "/run/aziot/certd.sock"
STATE = settings.ROOT + "/var/lib/aziot/identityd/device_info"
DPS_VERSION = "2021-06-01"
HUB_VERSION = "2017-11-08-preview"
MASTER_KEY = "aziot_identityd_master_id"

# Between the steps of a registration, seconds; DPS's Retry-After is not looked at.
DPS_STEP = 5
# After the first, second ... 429, seconds.
THROTTLED = (60, 120, 180, 300)


class Failure(Exception):
    """Provisioning or a request to the hub failed."""


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
            raise Failure(f"attestation by {attestation.get('method')} is not part of the stand-in")
        wanted = attestation.get("registration_id")
        issued = attestation.get("issued", False)
        name = attestation["identity_pk"]
        key = self.key_pair(name, issued)
        try:
            chain = self.certificate(attestation["identity_cert"], key, wanted, issued)
            leaf = x509.Leaf(chain)
        except (OSError, wire.WireError, x509.CertificateError) as error:
            if wanted is not None:
                # As the real one: it takes the pair for a half-finished renewal and starts over.
                log(f"certificate cannot be used ({error}); deleting its key pair to create both anew")
                wire.ask(KEYD, "DELETE", f"/keypair/{name}")
            raise Failure(f"the identity certificate cannot be used: {error}") from None
        if wanted is None and not leaf.common_name:
            raise Failure("the identity certificate has no common name, and there is no registration_id")
        return chain, key, wanted or leaf.common_name

    def key_pair(self, name, issued):
        if not issued:
            return wire.ask(KEYD, "GET", f"/keypair/{name}")["pem"]
        return wire.ask(KEYD, "POST", f"/keypair/{name}", {"preferred": "rsa-2048"})["pem"]

    def certificate(self, name, key, common_name, issued):
        """The certificate that is there; where it is one to be issued and is not there, a new one."""
        try:
            return wire.ask(CERTD, "GET", f"/certificates/{name}")["pem"]
        except wire.WireError:
            if not issued:
                raise
        import est

        log(f"having a certificate issued for {common_name}")
        try:
            csr = est.request(key, common_name)
        except est.EstError as error:
            raise Failure(str(error)) from None
        return wire.ask(CERTD, "POST", f"/certificates/{name}", {"csr": csr})["pem"]

    def context(self, chain, key):
        """Trusts the system's certificate authorities and nothing else."""
        import ssl  # slow to read: at this point keyd and certd are starting anyway

        context = ssl.create_default_context()
        # A memory file, for the library reads keys only from paths.
        held = os.memfd_create("identity", os.MFD_CLOEXEC)
        try:
            os.write(held, f"{chain}\n{key}\n".encode())
            context.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
        except ssl.SSLError as error:
            raise Failure(f"the certificate and private key cannot be used together: {error}") from None
        finally:
            os.close(held)
        return context

    def cloud(self, context, url, method, target, body=None, headers=None):
        """One request over TLS, repeated as often as cloud_retries says when the connection fails."""
        parts = urllib.parse.urlsplit(url)
        port = parts.port or 443
        for attempt in range(self.retries + 1):
            try:
                stream = socket.create_connection((parts.hostname, port), timeout=self.timeout)
                stream = context.wrap_socket(stream, server_hostname=parts.hostname)
                return wire.request(stream, method, target, parts.hostname, body, headers)
            except (OSError, wire.WireError) as error:
                log(f"{method} {parts.hostname}: attempt {attempt + 1}: {error}")
                last = error
        raise Failure(f"{parts.hostname}: {last}")

    # The Device Provisioning Service.

    def register(self):
        chain, key, registration = self.credentials()
        context = self.context(chain, key)
        provisioning = self.config["provisioning"]
        url = provisioning["global_endpoint"]
        name = urllib.parse.quote(registration, safe="")
        base = f"/{provisioning['scope_id']}/registrations/{name}"
        version = f"api-version={DPS_VERSION}"
        log(f"registering {registration} at {url}")
        throttled = 0
        while True:
            body = {"registrationId": registration}
            status, answer = self.cloud(context, url, "PUT", f"{base}/register?{version}", body)
            if status != 429:
                break
            pause = THROTTLED[min(throttled, len(THROTTLED) - 1)]
            log(f"DPS is busy (429): next attempt in {pause} s")
            throttled += 1
            time.sleep(pause)
        if status != 202 or not isinstance(answer, dict) or "operationId" not in answer:
            raise Failure(f"DPS answered {status} to the registration: {text(answer)}")
        operation = urllib.parse.quote(str(answer["operationId"]), safe="")
        while True:
            time.sleep(DPS_STEP)
            status, answer = self.cloud(context, url, "GET", f"{base}/operations/{operation}?{version}")
            if status not in (200, 202) or not isinstance(answer, dict):
                raise Failure(f"DPS answered {status}: {text(answer)}")
            if answer.get("status") != "assigning":
                return self.assigned(answer, registration)

    def assigned(self, answer, registration):
        state = answer.get("registrationState")
        state = state if isinstance(state, dict) else {}
        hub, device = state.get("assignedHub"), state.get("deviceId")
        if answer.get("status") != "assigned" or not hub or not device:
            raise Failure(f"DPS did not assign a hub: {text(answer)}")
        log(f"assigned to {hub} as {device}")
        return {"hub": hub, "device": device, "registration": registration}

    def provision(self, again=False):
        with self.lock:
            if self.device is not None and not again:
                return self.device
            provisioning = self.config["provisioning"]
            always = self.config.get("always_reprovision_on_startup", False)
            device = None if again or always else self.remembered()
            if device is None:
                if provisioning["source"] != "dps":
                    raise Failure(f"provisioning source {provisioning['source']} is not part of the stand-in")
                device = self.register()
                self.remember(device)
            self.device = device
            return device

    def remembered(self):
        try:
            with open(STATE, encoding="utf-8") as file:
                device = json.load(file)
        except (OSError, ValueError):
            return None
        good = isinstance(device, dict) and all(isinstance(device.get(at), str) for at in ("hub", "device"))
        same = good and device.get("scope") == self.config["provisioning"].get("scope_id")
        return device if same else None

    def remember(self, device):
        saved = device | {"scope": self.config["provisioning"].get("scope_id")}
        with open(f"{STATE}.new", "w", encoding="utf-8") as file:
            json.dump(saved, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{STATE}.new", STATE)

    # The hub.

    def hub(self, method, rest, body=None, headers=None):
        device = self.provision()
        chain, key, _ = self.credentials()
        target = f"/devices/{urllib.parse.quote(device['device'], safe='')}{rest}?api-version={HUB_VERSION}"
        status, answer = self.cloud(self.context(chain, key), f"https://{device['hub']}", method, target, body, headers)
        if status in (401, 404) and self.config["provisioning"].get("dynamic_reprovisioning", False):
            log(f"the hub answered {status}: asking DPS again")
            self.provision(again=True)
        if not 200 <= status < 300:
            raise Failure(f"{device['hub']} answered {status} to {method} {target}: {text(answer)}")
        return answer

    def module(self, name):
        answer = self.hub("GET", f"/modules/{urllib.parse.quote(name, safe='')}")
        if not isinstance(answer, dict) or not answer.get("generationId"):
            raise Failure(f"the hub's answer for {name} has no generationId")
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
            "deviceId": self.provision()["device"],
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
            log(str(failure))
            raise Refusal(500, str(failure)) from None
        except (OSError, wire.WireError) as error:
            log(str(error))
            raise Refusal(500, str(error)) from None

    def route(self, method, path):
        parts = urllib.parse.unquote(path).strip("/").split("/")
        match (method, parts):
            case ("GET", ["identities", "provisioning"]):
                return self.provisioning()
            case ("POST", ["identities", "device"]):
                device = self.provision()
                return {"type": "aziot", "spec": {"hubName": device["hub"], "deviceId": device["device"]}}
            case ("POST", ["identities", "device", "reprovision"]):
                self.provision(again=True)
                return None
            case ("GET", ["identities", "modules"]):
                listed = self.hub("GET", "/modules")
                if not isinstance(listed, list):
                    raise Failure("the hub's list of modules is no list")
                return {"identities": listed}
            case ("GET", ["identities", "modules", name]):
                return self.module(name)
            case ("PUT", ["identities", "modules", name]):
                return self.update_module(name)
        raise Refusal(404, "no such resource")

    def provisioning(self):
        provisioning = self.config["provisioning"]
        shown = {"source": provisioning["source"], "auth": provisioning.get("attestation", {}).get("method")}
        for name in ("global_endpoint", "scope_id"):
            shown[name] = provisioning.get(name)
        shown["provisioned"] = self.device is not None
        return shown


def text(answer):
    return json.dumps(answer)[:500]


def main():
    try:
        config = settings.load("identityd")
    except settings.SettingsError as error:
        log(str(error))
        return settings.NO_CONFIG
    wire.wake(KEYD)
    wire.wake(CERTD)
    serve.run(Identityd(config).handle)
