"""`iotedge check`: the real one's checks, in its order."""

import json
import os

import iotedge
from looks import (
    HUB_PORTS,
    OPTIONS,
    Bad,
    agent_image,
    connect_dps,
    connect_hub,
    engine,
    engine_dns,
    est_https,
    expiry,
    hostname,
    in_container,
    ipv6,
    issued_by,
    key_pairs,
    leaf,
    local_time,
    logrotate,
    management,
    match_keys,
    newest,
    parent,
    preloaded,
    proxy_settings,
    running,
    storage,
    up_to_date,
    well_formed,
)

IDENTITY = ["keyd", "certd", "tpmd", "identityd"]
CHECKS = (
    [(f"{at}-config-well-formed", well_formed(at)) for at in IDENTITY]
    + [
        ("configs-up-to-date", up_to_date(IDENTITY)),
        ("hostname", hostname),
        ("aziot-version", newest("aziot-identity-service", lambda: OPTIONS.expected_identity)),
        ("host-local-time", local_time),
        ("identity-certificate-expiry", expiry),
        ("est-identity-and-bootstrap-certificate-expiry", issued_by("est")),
        ("local-ca-certificate-expiry", issued_by("local_ca")),
        ("certs-preloaded", preloaded),
    ]
    + [(f"{at}-running", running(at)) for at in IDENTITY]
    + [
        ("certs-read", leaf),
        ("key-pairs-read", key_pairs),
        ("est-server-https", est_https),
        ("certs-match-private-keys", match_keys),
    ]
    + [(f"host-connect-iothub-{at}", connect_hub(port)) for at, port in HUB_PORTS]
    + [
        ("host-connect-dps-endpoint", connect_dps),
        ("aziot-edged-config-well-formed", well_formed("edged")),
        ("config-up-to-date", up_to_date(["edged"])),
        ("container-engine-uri", engine),
        ("parent_hostname", parent),
        ("container-resolve-parent-hostname", parent),
        ("connect-management-uri", management),
        ("aziot-edge-version", newest("aziot-edge", lambda: OPTIONS.expected_edge)),
        ("container-local-time", in_container),
        ("container-engine-dns", engine_dns),
        ("container-engine-ipv6", ipv6),
        ("container-engine-logrotate", logrotate),
        ("edge-agent-storage-mounted-from-host", storage("edgeAgent")),
        ("edge-hub-storage-mounted-from-host", storage("edgeHub")),
        ("check-agent-image", agent_image),
        ("proxy-settings", proxy_settings),
    ]
    + [
        (f"container-{kind}connect-upstream-{at}", in_container)
        for kind in ("default-", "")
        for at in ("amqp", "https", "mqtt")
    ]
)


def outcome(check):
    try:
        check()
    except Bad as bad:
        return {"result": bad.result} | ({"details": list(bad.args)} if bad.args else {})
    return {"result": "ok"}


FLAGS = {
    "--iothub-hostname": "hub",
    "--expected-aziot-version": "expected_identity",
    "--expected-aziot-edged-version": "expected_edge",
    "--diagnostics-image-name": "diagnostics",
}


def parse(arguments):
    """Takes the options over; is JSON wanted?"""
    as_json, rest = False, list(arguments)
    while rest:
        match rest:
            case ["-o" | "--output", "json" | "text" as form, *rest]:
                as_json = form == "json"
            case [flag, value, *rest] if flag in FLAGS:
                setattr(OPTIONS, FLAGS[flag], value)
            case _:
                raise iotedge.CommandError(iotedge.USAGE)
    return as_json


MARKS = {"ok": "√", "warning": "‼", "error": "×", "fatal": "×", "skipped": "-", "ignored": " "}


def main(verb, arguments):
    as_json = parse(arguments)
    if verb == "check-list":
        names = [name for name, _ in CHECKS]
        print(json.dumps(names) if as_json else "\n".join(names))
        return 0
    if os.geteuid() != 0:
        raise iotedge.CommandError("this command must be run as root")
    results = {}
    for name, check in CHECKS:
        results[name] = outcome(check)
        if not as_json:
            print(f"{MARKS[results[name]['result']]} {name} - {results[name]['result']}", flush=True)
            for detail in results[name].get("details", []):
                print(f"    {detail}")
    if as_json:
        print(json.dumps({"checks": {name: {"result": result} for name, result in results.items()}}))
    return 1 if any(at["result"] in ("error", "fatal") for at in results.values()) else 0
