# shellcheck shell=sh
# Source `tpm`: the machine's TPM 2.0 proves who it is; nothing is fetched and nothing is secret.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

source_pending() {
    return 1
}

source_find() {
    return 0
}

source_check() {
    return 0
}

# aziot-tpmd runs as aziottpm and opens the resource manager's device; a udev rule gives it to that user.
source_obtain() {
    node=/dev/tpmrm0
    [ -e "$EP_ROOT$node" ] || { waiting "the machine has no TPM 2.0 ($node)"; return 1; }
    owner=$(stat -c '%U %a' "$EP_ROOT$node")
    [ "$owner" = "aziottpm 660" ] || { waiting "$node belongs to ${owner% *} (mode ${owner#* }), not to aziottpm (660)"; return 1; }
    say "the TPM is there: $node belongs to ${owner% *}, mode ${owner#* }"
}

source_install() {
    attest tpm "$1" && installed
}

source_on_device() {
    was_installed
}
