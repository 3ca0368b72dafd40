# shellcheck shell=sh
# What first boot needs of the world: a network, and a clock that was set.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# A machine without a clock of its own wakes in 1970 or at its last shutdown: never before the image was made.
floor_clock() {
    [ "$(date +%s)" -ge "$EP_EPOCH" ] || date -s "@$EP_EPOCH" >/dev/null || :
}

# A default route, IPv4 (flags: up, perhaps gateway) or IPv6 (::/0, not the kernel's own "unreachable" on lo).
has_default_route() {
    while read -r _ destination _ flags _; do
        case $destination:$flags in 00000000:000[13]) return 0 ;; esac
    done 2>/dev/null <"$EP_ROOT/proc/net/route"
    while read -r destination length _ _ _ _ _ _ _ device; do
        [ "$destination/$length" != 00000000000000000000000000000000/00 ] || [ "$device" = lo ] || return 0
    done 2>/dev/null <"$EP_ROOT/proc/net/ipv6_route"
    return 1
}

# Networks without a default route exist (everything on one link, names from /etc/hosts): there the endpoint's name
# must resolve.
network_ready() {
    has_default_route && return 0
    if [ $((passes % 5)) -eq 4 ]; then
        name=$(sed -n 's#^global_endpoint *= *"https\{0,1\}://\([^/":]*\).*#\1#p' "$CONFIG")
        [ -n "$name" ] && getent ahosts "$name" >/dev/null 2>&1 && return 0
    fi
    waiting "no network: no default route"
    return 1
}

# timesyncd's own mark; failing that (chrony, or a time server that never answered within systemd-time-wait-sync's
# limit), what systemd thinks of it.
time_reached() {
    [ ! -e "$EP_ROOT/run/systemd/timesync/synchronized" ] || return 0
    if [ $((passes % 5)) -eq 4 ] && systemctl is-active --quiet time-sync.target; then return 0; fi
    waiting "the clock is not set: no time server has answered"
    return 1
}
