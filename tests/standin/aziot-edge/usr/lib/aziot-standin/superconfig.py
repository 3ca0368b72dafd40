"""/etc/aziot/config.toml: parsed as strictly as the real `iotedge config apply` does, and split into the five services'
configurations."""

import base64
import re
import socket
import tomllib
import urllib.parse

DEFAULT_AGENT = "mcr.microsoft.com/azureiotedge-agent:1.6.1"
MIN_CLOUD_TIMEOUT = 70
MODES = ("Dynamic", "AlwaysOnStartup", "OnErrorOnly")
LABEL = re.compile(r"[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
ANY = object()


class ConfigError(Exception):
    """The configuration is refused; the text says where and why."""


def table(**keys):
    """A table's keys and types; a name that ends in _ is required (without the _)."""
    return keys


def one_of(*words):
    def check(value, where):
        if value not in words:
            raise ConfigError(f"{where}: unknown value {value!r}, expected one of {', '.join(words)}")

    return check


def url(*schemes):
    def check(value, where):
        kind(value, str, where)
        parts = urllib.parse.urlsplit(value)
        if parts.scheme not in schemes or not (parts.netloc or parts.path.startswith("/") or parts.scheme == "pkcs11"):
            raise ConfigError(f"{where}: {value!r} is no {' or '.join(schemes)} address")

    return check


def at_least(least):
    def check(value, where):
        kind(value, int, where)
        if value < least:
            raise ConfigError(f"{where}: {value} is below the least value {least}")

    return check


def base64_text(value, where):
    kind(value, str, where)
    try:
        base64.b64decode(value, validate=True)
    except ValueError:
        raise ConfigError(f"{where}: not base64") from None


def kind(value, wanted, where):
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: invalid type: expected {wanted.__name__}, found {type(value).__name__}")


FILE = url("file")
KEY = url("file", "pkcs11")
WEB = url("http", "https")
RENEW = table(rotate_key_=bool, threshold_=str, retry_=str)
AUTH = table(
    username=str, password=str, identity_cert=FILE, identity_pk=KEY, bootstrap_identity_cert=FILE,
    bootstrap_identity_pk=KEY,
)
ISSUED = table(
    method_=one_of("est", "local_ca", "self_signed"), common_name=str, subject=ANY, expiry_days=at_least(1),
    auto_renew=RENEW, url=WEB, **AUTH,
)


def identity_cert(value, where):
    check(value, ISSUED, where) if isinstance(value, dict) else FILE(value, where)


X509 = table(
    method_=str, registration_id=str, identity_cert_=identity_cert, identity_pk=KEY, identity_auto_renew=RENEW
)
SYMMETRIC = table(method_=str, registration_id_=str, symmetric_key_=table(value=base64_text, uri=KEY))
TPM = table(method_=str, registration_id_=str)


def attestation(value, where):
    kind(value, dict, where)
    methods = {"x509": X509, "symmetric_key": SYMMETRIC, "tpm": TPM}
    one_of(*methods)(value.get("method"), f"{where}.method")
    check(value, methods[value["method"]], where)


DPS = table(source_=str, global_endpoint_=WEB, id_scope_=str, attestation_=attestation, payload=table(uri_=FILE))
MANUAL = table(source_=str, connection_string=str, iothub_hostname=str, device_id=str, authentication=ANY)
NONE = table(source_=str)


def provisioning(value, where):
    kind(value, dict, where)
    sources = {"dps": DPS, "manual": MANUAL, "none": NONE}
    one_of(*sources)(value.get("source"), f"{where}.source")
    check(value, sources[value["source"]], where)


def strings(value, where):
    kind(value, dict, where)
    for name, text in value.items():
        kind(text, str, f"{where}.{name}")


def addresses(value, where):
    kind(value, list, where)
    for at, text in enumerate(value):
        FILE(text, f"{where}[{at}]")


CONFIG = table(
    hostname=str, parent_hostname=str, trust_bundle_cert=FILE, manifest_trust_bundle_cert=FILE,
    auto_reprovisioning_mode=one_of(*MODES), cloud_timeout_sec=at_least(MIN_CLOUD_TIMEOUT), cloud_retries=at_least(0),
    allow_elevated_docker_permissions=bool, prefer_module_identity_cache=bool,
    imported_master_encryption_key=str, iotedge_max_requests=dict,
    provisioning_=provisioning, localid=dict, aziot_keys=strings, preloaded_keys=dict, preloaded_certs=dict,
    cert_issuance=table(
        est=table(trusted_certs=addresses, auth=AUTH, identity_auto_renew=RENEW, urls=strings), local_ca=dict
    ),
    edge_ca=table(
        cert=FILE, pk=KEY, auto_generated_edge_ca_expiry_days=at_least(1), auto_renew=RENEW,
        **{name: of for name, of in ISSUED.items() if name not in ("method_", "auto_renew")},
        method=one_of("est", "local_ca", "self_signed"), subject_alt_name=ANY,
    ),
    agent=table(
        name_=one_of("edgeAgent"), type_=one_of("docker"), imagePullPolicy=one_of("on-create", "never"),
        config_=table(
            image_=str, createOptions=dict, digest=str,
            auth=table(serveraddress=str, username=str, password=str, email=str),
        ),
        env=strings,
    ),
    connect=strings, listen=strings, watchdog=table(max_retries=ANY),
    moby_runtime=table(uri=url("unix"), network=ANY, content_trust=dict),
    tpm=table(tcti=str, auth_key_index=at_least(0), hierarchy_authorization=ANY),
    image_garbage_collection=table(
        enabled=bool, cleanup_recurrence=str, image_age_cleanup_threshold=str, cleanup_time=str
    ),
)


def check(value, shape, where):
    """Refuses unknown keys, missing keys and wrong types, with the key's path."""
    if shape is ANY:
        return
    if isinstance(shape, type):
        kind(value, shape, where)
    elif callable(shape):
        shape(value, where)
    else:
        kind(value, dict, where)
        known = {name.removesuffix("_"): of for name, of in shape.items()}
        prefix = f"{where}." if where else ""
        for name in value:
            if name not in known:
                raise ConfigError(f"{prefix}{name}: unknown key, expected one of {', '.join(sorted(known))}")
        for name in shape:
            if name.endswith("_") and name.removesuffix("_") not in value:
                raise ConfigError(f"{prefix}{name.removesuffix('_')}: missing key")
        for name, item in value.items():
            check(item, known[name], prefix + name)


def check_hostname(name):
    """An IP address, or RFC 1035 labels; at most 64 characters."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, name)
            return
        except OSError:
            continue
    if len(name) > 64 or not all(LABEL.fullmatch(label) for label in name.split(".")):
        raise ConfigError(f"hostname: {name!r} is neither an IP address nor a name by RFC 1035")


def parse(text):
    """The configuration, checked; `hostname` is filled in."""
    try:
        config = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"could not parse config file: {error}") from None
    check(config, CONFIG, "")
    source = config["provisioning"]["source"]
    if source == "dps" and "parent_hostname" in config:
        raise ConfigError("parent_hostname: not with DPS provisioning, only with manual provisioning")
    given = config["provisioning"].get("attestation", {})
    static = given.get("method") == "x509" and not isinstance(given["identity_cert"], dict)
    if static and "identity_pk" not in given:
        raise ConfigError("provisioning.attestation.identity_pk: missing key")
    edge_ca = config.get("edge_ca", {})
    if ("cert" in edge_ca) != ("pk" in edge_ca):
        raise ConfigError("edge_ca: cert and pk go together")
    config.setdefault("hostname", socket.gethostname())
    check_hostname(config["hostname"])
    return config


def est_issuance(config, attestation, keys, certs):
    """`cert_issuance` of certd for the device's certificate; as the real one names keys and certificates."""
    wanted = attestation["identity_cert"]
    if wanted["method"] != "est":
        raise ConfigError(f"certificates issued by {wanted['method']} are not part of the stand-in")
    est = config.get("cert_issuance", {}).get("est", {})
    address = wanted.get("url") or est.get("urls", {}).get("default")
    if not address:
        raise ConfigError("provisioning.attestation.identity_cert.url: missing key, and there is no default address")
    name = wanted.get("common_name") or wanted.get("subject", {}).get("CN")
    if not name or "registration_id" not in attestation:
        raise ConfigError("provisioning.attestation: an issued certificate needs a common name and a registration_id")
    how = {"method": "est", "url": address, "common_name": name}
    auth = est.get("auth", {}) | {at: wanted[at] for at in AUTH if at in wanted}
    if ("username" in auth) != ("password" in auth):
        raise ConfigError("cert_issuance.est.auth: username and password go together")
    how |= {at: auth[at] for at in ("username", "password") if at in auth}
    if "bootstrap_identity_cert" in auth:
        if "bootstrap_identity_pk" not in auth:
            raise ConfigError("cert_issuance.est.auth.bootstrap_identity_pk: missing key")
        bootstrap = "est-bootstrap-id-device-id"
        certs[bootstrap], keys[bootstrap] = auth["bootstrap_identity_cert"], auth["bootstrap_identity_pk"]
        how |= {"bootstrap_identity_cert": bootstrap, "bootstrap_identity_pk": bootstrap}
        how |= {"identity_cert": "est-id-device-id", "identity_pk": "est-id-device-id"}
        renewed = auth.get("identity_auto_renew", est.get("identity_auto_renew"))
        how |= {"identity_auto_renew": renewed} if renewed else {}
    trusted = []
    for at, file in enumerate(est.get("trusted_certs", []), 1):
        trusted.append(f"est-server-ca-{at}")
        certs[trusted[-1]] = file
    return {"est": {"trusted_certs": trusted}, "device-id": how}


EDGE_CA = "aziot-edged-ca"
# What certd enrols with; the last one for the time of a renewal.
EST_KEYS = ("est-bootstrap-id-device-id", "est-id-device-id", "est-id-device-id-temp")
EDGE_CA_DAYS = 90


def edge_authority(edge_ca, keys, certs, issuance):
    """Edged's authority: the files that are stated, or one that signs itself, as the real one's "quickstart" is. Returns how the
    latter is renewed."""
    if "cert" in edge_ca:
        certs[EDGE_CA], keys[EDGE_CA] = edge_ca["cert"], edge_ca["pk"]
    elif edge_ca.get("method", "self_signed") == "self_signed":
        days = edge_ca.get("auto_generated_edge_ca_expiry_days", edge_ca.get("expiry_days", EDGE_CA_DAYS))
        issuance[EDGE_CA] = {"method": "self_signed", "key": EDGE_CA, "expiry_days": days}
        return edge_ca.get("auto_renew", {"rotate_key": True, "threshold": "80%", "retry": "4%"})
    else:
        raise ConfigError(f"an edge CA issued by {edge_ca['method']} is not part of the stand-in")
    return None


def split(config, uids):
    """Service → its configuration; `uids` maps users to numbers, for the principals."""
    given = config["provisioning"]
    attestation = dict(given.get("attestation", {}))
    keys, certs = {}, {}
    issuance = {}
    if attestation.get("method") == "x509" and not isinstance(attestation["identity_cert"], dict):
        certs["device-id"] = attestation["identity_cert"]
        keys["device-id"] = attestation["identity_pk"]
        attestation["identity_cert"] = attestation["identity_pk"] = "device-id"
    elif attestation.get("method") == "x509":
        issuance = est_issuance(config, attestation, keys, certs)
        renewed = attestation["identity_cert"].get("auto_renew", attestation.get("identity_auto_renew"))
        attestation |= {"auto_renew": renewed} if renewed else {}
        attestation |= {"identity_cert": "device-id", "identity_pk": "device-id", "issued": True}
    elif attestation.get("method") == "symmetric_key":
        if "uri" not in attestation["symmetric_key"]:
            raise ConfigError("provisioning.attestation.symmetric_key: a value in the file is not part of the stand-in")
        keys["device-id"] = attestation["symmetric_key"]["uri"]
        attestation["symmetric_key"] = "device-id"
    edge_ca = config.get("edge_ca", {})
    edge_renewal = edge_authority(edge_ca, keys, certs, issuance)
    mode = config.get("auto_reprovisioning_mode", "Dynamic")
    provisioning = {"source": given["source"]}
    if given["source"] == "dps":
        provisioning |= {"global_endpoint": given["global_endpoint"], "scope_id": given["id_scope"]}
        provisioning["attestation"] = attestation
        if "payload" in given:
            provisioning["payload"] = given["payload"]
    used_by_identityd = ["aziot_identityd_master_id"] + (["device-id", "device-id-temp"] if attestation else [])
    return {
        "keyd": {
            "preloaded_keys": keys,
            "principal": [
                {"uid": uids["aziotid"], "keys": used_by_identityd},
                {"uid": uids["iotedge"], "keys": ["iotedge_master_encryption_id", EDGE_CA]},
                {"uid": uids["aziotcs"], "keys": [*EST_KEYS, EDGE_CA]},
            ],
        },
        "certd": {
            "homedir_path": "/var/lib/aziot/certd",
            "preloaded_certs": certs,
            "cert_issuance": issuance,
            "principal": [
                {"uid": uids["aziotid"], "certs": ["device-id"]},
                {"uid": uids["iotedge"], "certs": [EDGE_CA, "aziot-edged/module/*"]},
            ],
        },
        "identityd": {
            "hostname": config["hostname"],
            "homedir": "/var/lib/aziot/identityd",
            "cloud_timeout_sec": config.get("cloud_timeout_sec", MIN_CLOUD_TIMEOUT),
            "cloud_retries": config.get("cloud_retries", 1),
            "provisioning": provisioning,
            "principal": [{"uid": uids["iotedge"], "name": "aziot-edge"}],
        },
        "tpmd": {"tpm": config.get("tpm", {})} | {"principal": []},
        "edged": {
            "hostname": config["hostname"],
            "homedir": "/var/lib/aziot/edged",
            "auto_reprovisioning_mode": mode,
            "agent": config.get("agent", {"name": "edgeAgent", "type": "docker", "config": {"image": DEFAULT_AGENT}}),
            "moby_runtime": {
                "uri": config.get("moby_runtime", {}).get("uri", "unix:///var/run/docker.sock"),
                "network": config.get("moby_runtime", {}).get("network", "azure-iot-edge"),
            },
        }
        | ({"edge_ca_auto_renew": edge_renewal} if edge_renewal else {}),
    }


def scalar(value):
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case str():
            inner = "".join(f"\\u{ord(at):04x}" if ord(at) < 32 or at in '"\\\x7f' else at for at in value)
            return f'"{inner}"'
        case list():
            return f"[{', '.join(scalar(item) for item in value)}]"
        case dict():
            return f"{{ {', '.join(f'{scalar(name)} = {scalar(item)}' for name, item in value.items())} }}"
    raise ConfigError(f"a {type(value).__name__} cannot be written")


def dump(config):
    """TOML, one line for each top-level key."""
    head = "# This file is auto-generated by `iotedge config apply`\n# Any edits are lost when it is run again.\n\n"
    return head + "".join(f"{scalar(name)} = {scalar(value)}\n" for name, value in config.items())
