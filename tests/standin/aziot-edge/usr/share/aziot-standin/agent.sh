#!/bin/busybox sh
# The stand-in's edgeAgent: keeps a connection to the hub's port 8883 open, from inside its container, with the names
# and the network that containers have. That is what can be seen of it from outside.
PATH=/bin:/usr/bin:/sbin:/usr/sbin
bb=/bin/busybox
hub=${IOTEDGE_IOTHUBHOSTNAME:?not set}
port=8883
child=

leave() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    echo "edgeAgent: stopping"
    exit 0
}
trap leave TERM INT

"$bb" mkdir -p /tmp
[ -p /tmp/idle ] || "$bb" mkfifo /tmp/idle

delay=1
while :; do
    echo "edgeAgent: connecting to $hub:$port as $IOTEDGE_DEVICEID"
    # Opened for reading and writing, the pipe never ends, so nc holds the connection until the hub closes it.
    "$bb" nc "$hub" "$port" <>/tmp/idle &
    child=$!
    began=$("$bb" date +%s)
    wait "$child"
    child=
    [ $(($("$bb" date +%s) - began)) -lt 30 ] || delay=1
    echo "edgeAgent: connection closed; again in $delay s"
    "$bb" sleep "$delay" &
    child=$!
    wait "$child"
    child=
    delay=$((delay * 2))
    [ "$delay" -le 30 ] || delay=30
done
