#!/bin/busybox sh
# shellcheck shell=dash
# The stand-in's edgeAgent: tries what modules must not reach, then keeps a connection to its hub open, from inside its container,
# with the names and the network that containers have: TLS for the hub's name on port 8883, MQTT 3.1.1's CONNECT as the device's
# $edgeAgent, and pings. That is what can be seen of the real one from outside. busybox's TLS verifies no certificate, and
# there is no token in place of a password.
PATH=/bin:/usr/bin:/sbin:/usr/sbin
bb=/bin/busybox
hub=${IOTEDGE_IOTHUBHOSTNAME:?not set}
device=${IOTEDGE_DEVICEID:?not set}
port=8883
work=/tmp/agent
child=
keepalive=60

byte() { "$bb" printf "\\$("$bb" printf '%03o' "$1")"; }

# A text with its length in two bytes before.
field() {
    byte $((${#1} / 256))
    byte $((${#1} % 256))
    "$bb" printf '%s' "$1"
}

# CONNECT: the remaining length in one byte or two, then protocol, level 4, flags (user, clean session), keep-alive, client id, user.
connect() {
    id="$device/\$edgeAgent"
    user="$hub/$id/?api-version=2018-06-30"
    length=$((10 + 2 + ${#id} + 2 + ${#user}))
    byte 16
    if [ "$length" -lt 128 ]; then
        byte "$length"
    else
        byte $((length % 128 + 128))
        byte $((length / 128))
    fi
    field MQTT
    byte 4
    byte 130
    byte 0
    byte $((keepalive * 2))
    field "$id"
    field "$user"
}

packets() {
    connect
    while "$bb" sleep "$keepalive"; do "$bb" printf '\300\000' || return; done
}

# The openssl of the image, by its own loader and libraries.
client() { /agent/ld.so --library-path /agent /agent/openssl s_client -quiet -verify_quiet -connect "$hub:$port" -servername "$hub"; }

receive() {
    [ "$("$bb" head -c 4 | "$bb" od -An -tx1)" = ' 20 02 00 00' ] && echo "edgeAgent: connected"
    "$bb" cat >/dev/null
}

leave() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    echo "edgeAgent: stopping"
    exit 0
}
trap leave TERM INT

"$bb" mkdir -p "$work"
[ -p "$work/up" ] || "$bb" mkfifo "$work/up"

# What a hostile module would ask first: who the machine is, and the platform's settings. What came of it is noted in the agent's
# own folder of the device, one line for each, where `edgepress test --azure` looks.
# (busybox's wget, linked statically, does not live through the look-up of a name.)
ask() {
    said=$(printf 'GET /%s HTTP/1.0\r\nHost: %s\r\nMetadata: true\r\n\r\n' "$2" "$1" | "$bb" nc -w 5 "$1" 80 2>&1)
    case $said in
        HTTP/*) echo "$1 answered" ;;
        *refused*) echo "$1 refused" ;;
        *) echo "$1 silent: $said" ;;
    esac
}
if [ -d "${storageFolder:-}" ]; then
    {
        ask 169.254.169.254 'metadata/instance?api-version=2021-02-01'
        ask 168.63.129.16 '?comp=versions'
    } >"$storageFolder/asked.new" && "$bb" mv "$storageFolder/asked.new" "$storageFolder/asked"
fi

delay=1
while :; do
    echo "edgeAgent: connecting to $hub:$port as $device"
    began=$("$bb" date +%s)
    packets >"$work/up" 2>/dev/null &
    sender=$!
    client <"$work/up" | receive &
    child=$!
    wait "$child"
    child=
    kill "$sender" 2>/dev/null
    [ $(($("$bb" date +%s) - began)) -lt 30 ] || delay=1
    echo "edgeAgent: connection closed; again in $delay s"
    "$bb" sleep "$delay" &
    child=$!
    wait "$child"
    child=
    delay=$((delay * 2))
    [ "$delay" -le 30 ] || delay=30
done
