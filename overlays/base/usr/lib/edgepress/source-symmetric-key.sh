# shellcheck shell=sh
# Source `symmetric-key`: the device's own key, derived from its enrolment group's when it was stamped.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

SYMMETRIC_KEY=$SECRETS/keys/device-id.symmetric

source_pending() {
    fat_has symmetric-key
}

source_find() {
    missing="no symmetric-key in edgepress/ on the FAT partition"
    [ -s "$1/symmetric-key" ]
}

source_check() {
    tr -d ' \t\r\n' <"$1/symmetric-key" | openssl base64 -d -A >"$1/symmetric-key.bytes" 2>/dev/null
    size=$(wc -c <"$1/symmetric-key.bytes")
    [ "$size" -ge 16 ] && [ "$size" -le 128 ] ||
        complain "symmetric-key is no key: base64 of 16 to 128 bytes"
}

# aziot-keyd reads the key's bytes, not their base64.
source_install() {
    secret_folders && put "$1/symmetric-key.bytes" "$SYMMETRIC_KEY" aziotks 0600 && attest symmetric-key "$1" && installed
}

source_on_device() {
    [ -s "$SYMMETRIC_KEY" ] && was_installed
}
