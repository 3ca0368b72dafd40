# shellcheck shell=sh
# Takes a device back to where it waits for an identity. A mark comes first and goes last: after a power cut in between,
# the next boot does the rest. Needs attestation.sh and registry.sh.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

reset_if_asked() {
    [ ! -e "$VAR/reset" ] || { stop_runtime; reset_device; }
}

ask_reset() {
    : >"$VAR/reset" && sync "$VAR/reset" "$VAR"
}

# Sockets too, so that nothing wakes a service of the old identity.
stop_runtime() {
    systemctl stop aziot-edged.service aziot-edged.mgmt.socket aziot-edged.workload.socket aziot-identityd.service \
        aziot-identityd.socket aziot-certd.service aziot-certd.socket aziot-keyd.service aziot-keyd.socket \
        aziot-tpmd.service aziot-tpmd.socket
}

# The tables that first boot wrote for the old identity: passwords may stand there.
forget_attestation() {
    config=$EP_ROOT/etc/aziot/config.toml
    [ -e "$config" ] || return 0
    (umask 077 && unattested "$config" >"$config.old" && without_registry "$config.old" own >"$config.new") &&
        rm -f "$config.old" && sync "$config.new" && mv -f "$config.new" "$config"
}

reset_device() {
    # What the partition held for this identity: a registration id that is left there is not the next one's.
    [ ! -s "$VAR/installed" ] ||
        { (umask 077 && sed 1d "$VAR/installed" >"$VAR/former.new") && mv -f "$VAR/former.new" "$VAR/former"; }
    rm -f "$VAR/provisioned" "$VAR/configured" "$VAR/installed" "$VAR/state"
    rm -rf "$VAR/enrolment"
    for file in keys/device-id.key.pem keys/device-id.symmetric keys/est-bootstrap.key.pem certs/device-id.pem \
        certs/est-bootstrap.pem certs/est-ca.pem; do
        rm -f "$EP_ROOT/var/secrets/aziot/$file"
    done
    # What the services made of the old identity: keys and certificates of their own, the hub that DPS told them.
    rm -rf "$EP_ROOT"/var/lib/aziot/identityd/* "$EP_ROOT"/var/lib/aziot/certd/certs/* "$EP_ROOT"/var/lib/aziot/keyd/keys/* \
        "$EP_ROOT"/var/lib/aziot/edged/cache/*
    rm -f "$EP_ROOT"/etc/aziot/*/config.d/00-super.toml
    forget_attestation || return 1
    sync
    rm -f "$VAR/reset"
    sync "$VAR"
}
