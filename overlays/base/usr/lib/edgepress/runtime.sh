# shellcheck shell=sh
# The runtime: it is configured, it starts, and it gets the device's hub from DPS.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

IDENTITYD=$EP_ROOT/run/aziot/identityd.sock

# `config apply` asks docker if it finds an earlier result, so there must be none; and it reports some failures in
# words only, so its result is looked at.
apply_config() {
    [ "$applied" != yes ] || return 0
    say "applying the configuration"
    rm -f "$EP_ROOT"/etc/aziot/*/config.d/00-super.toml
    (umask 022 && exec timeout 300 iotedge config apply -c "$CONFIG") >"$RUN/apply.log" 2>&1 &
    apply=$!
    meanwhile "$apply"
    if ! wait "$apply"; then
        cat "$RUN/apply.log"
        failed "iotedge config apply: $(tail -n 3 "$RUN/apply.log")"
        return 1
    fi
    cat "$RUN/apply.log"
    for service in keyd certd identityd tpmd edged; do
        [ -s "$EP_ROOT/etc/aziot/$service/config.d/00-super.toml" ] && continue
        failed "iotedge config apply left no configuration for $service"
        return 1
    done
    applied=yes
}

# `config apply` ends by waiting for aziot-edged, and that one for the container engine, which takes its time. The identity
# service needs no engine: woken as soon as its socket is there, it registers with DPS in the meantime.
meanwhile() {
    while kill -0 "$1" 2>/dev/null; do
        if grep -q 'aziot-identityd.socket\.\.\.Start' "$RUN/apply.log" 2>/dev/null; then
            ask_hub 30 || :
            return 0
        fi
        sleep "$EP_PAUSE"
    done
}

# A service that crashes is active at times: two looks in a row must agree.
edged_active() {
    [ "$active" != yes ] || return 0
    looks=0 tries=0
    while [ "$tries" -lt 20 ]; do
        if systemctl is-active --quiet aziot-edged.service; then looks=$((looks + 1)); else looks=0; fi
        if [ "$looks" -eq 2 ]; then
            active=yes
            return 0
        fi
        tries=$((tries + 1))
        sleep "$EP_PAUSE"
    done
    applied=
    failed "aziot-edged does not stay up (see: journalctl -u aziot-edged)"
    return 1
}

# ask_hub SECONDS: the device's identity, as the identity service has it from DPS; it provisions when it starts, and being
# asked starts it. Sets $hub.
ask_hub() {
    rm -f "$RUN/device"
    answer=$(curl --disable --silent --max-time "$1" --unix-socket "$IDENTITYD" --header 'Content-Type: application/json' \
        --data '{"type":"aziot"}' --output "$RUN/device" --write-out '%{http_code}' \
        'http://localhost/identities/device?api-version=2022-08-01' 2>/dev/null)
    [ "$answer" = 200 ] || return 1
    hub=$(jq -r '.spec.hubName // empty' "$RUN/device" 2>/dev/null | tr -cd 'A-Za-z0-9.-')
    rm -f "$RUN/device"
    [ -n "$hub" ]
}

# What the identity service complained of last: as its answer, or in its journal (not systemd's words about it).
complaint() {
    text=$(jq -r '.message // empty' "$RUN/device" 2>/dev/null)
    [ -n "$text" ] || text=$(journalctl --identifier aziot-identityd --boot --output cat --lines 300 2>/dev/null | last_cause)
    printf '%s' "$text"
}

# When DPS refuses a device, the service ends, and its last words are
#   [ERR!] - service encountered an error
#   [ERR!] - caused by: ...          closer to the reason with each line
#   [ERR!] -    0: ...               and a backtrace of some twenty lines
last_cause() {
    awk '
        { sub(/^<[0-9]>/, ""); sub(/^[0-9][0-9TZ:.+-]* /, "") }
        /^(\[ERR!\] (- )?)?[ \t]*([0-9]+: |at |stack backtrace|<[a-z]+( backtrace)?>)/ { next }
        /^\[ERR!\]/ { sub(/^\[ERR!\] (- )?/, ""); sub(/^caused by: /, ""); if ($0 != "") said = $0; next }
        tolower($0) ~ /fail|error|refuse|(^|[^0-9])4[0-9][0-9]([^0-9]|$)/ { sub(/^\[[A-Z]+\] (- )?/, ""); said = $0 }
        END { print said }'
}

assigned() {
    ask_hub 20 && return 0
    text=$(complaint)
    retry_later "DPS has not assigned a hub yet${text:+: $text}"
    return 1
}
