# shellcheck shell=sh
# What an identity may bring beside certificate and key: hostname, hosts entries, SSH keys, CA certificates, endpoint.
# shellcheck disable=SC2016,SC2034,SC2154 # awk programs; variables are shared with the script that sources this

# Written into /etc/hosts: its presence means that the hostname is this device's own.
HOSTS_MARK='# From this device'"'"'s identity:'

first_word() {
    word=
    [ ! -s "$1" ] || IFS=' 	' read -r word _ <"$1" || :
}

check_overrides() {
    first_word "$1/hostname"
    [ -z "$word" ] || [ "$(lower "$word")" = "$(label "$word")" ] ||
        complain "hostname \"$word\" is no host name (letters, digits and -, a letter first, at most 63)" || return 1
    first_word "$1/endpoint"
    case $word in
        '' | https://[A-Za-z0-9]*) ;;
        *) complain "endpoint \"$word\" is no https:// address" || return 1 ;;
    esac
    case ${word#https://} in
        *[!A-Za-z0-9.:/_-]*) complain "endpoint \"$word\" is no https:// address" || return 1 ;;
    esac
    for file in "$1"/ca/*; do
        [ -f "$file" ] || continue
        openssl x509 -in "$file" -noout 2>/dev/null || complain "ca/${file##*/} is no certificate" || return 1
    done
}

lower() {
    printf '%s' "$1" | tr '[:upper:]' '[:lower:]'
}

# The nearest legal host name (RFC 1035: letters, digits, -, a letter first, at most 63).
label() {
    name=$(lower "$1" | tr -c 'a-z0-9-' '-' | sed 's/^-*//')
    case $name in [!a-z]*) name=edge-$name ;; esac
    name=$(printf '%.63s' "${name:-edge}")
    while [ "${name%-}" != "$name" ]; do name=${name%-}; done
    printf '%s' "$name"
}

set_hostname() {
    [ "$origin" = source ] || ! grep -q -F "$HOSTS_MARK" "$EP_ROOT/etc/hosts" || return 0
    first_word "$STAGE/hostname"
    host=$(label "${word:-$registration}")
    write_hosts && replace "$EP_ROOT/etc/hostname" 0644 printf '%s\n' "$host" &&
        printf '%s\n' "$host" >"$EP_ROOT/proc/sys/kernel/hostname"
}

# The image's own lines, then this device's: an address and names, nothing else.
write_hosts() {
    touch "$STAGE/hosts" 2>/dev/null || { mkdir -p "$STAGE" && : >"$STAGE/hosts"; } || return 1
    replace "$EP_ROOT/etc/hosts" 0644 awk -v mark="$HOSTS_MARK" -v host="$host" '
        FILENAME == ARGV[1] { if ($0 == mark) old = 1; if (!old && $1 != "127.0.1.1") print; next }
        !said { print mark; print "127.0.1.1 " host; said = 1 }
        $1 ~ /^[0-9A-Fa-f:.]+$/ && NF > 1 && !/[^A-Za-z0-9:._ \t-]/ { print }
        END { if (!said) { print mark; print "127.0.1.1 " host } }' "$EP_ROOT/etc/hosts" "$STAGE/hosts"
}

apply_overrides() {
    authorize || { why="the SSH keys could not be installed for $EP_USER"; return 1; }
    set_endpoint || { why="the endpoint could not be written into config.toml"; return 1; }
    start_trust || { why="the CA certificates could not be installed"; return 1; }
}

# Adds the keys to those of the recipe.
authorize() {
    grep -q '^[^#]' "$STAGE/authorized_keys" 2>/dev/null || return 0
    home='' uid='' gid=
    while IFS=: read -r name _ number group _ folder _; do
        [ "$name" != "$EP_USER" ] || home=$EP_ROOT$folder uid=$number gid=$group
    done <"$EP_ROOT/etc/passwd"
    [ -n "$home" ] || return 1
    keys=$home/.ssh/authorized_keys
    mkdir -p "$home/.ssh" && touch "$keys" &&
        replace "$keys" 0600 awk 'NF && !/^[ \t]*#/ && !known[$0]++' "$keys" "$STAGE/authorized_keys" &&
        chmod 0700 "$home/.ssh" && chown -R "$uid:$gid" "$home/.ssh"
}

# Safe in awk: check_overrides let only the characters of an address pass.
set_endpoint() {
    first_word "$STAGE/endpoint"
    [ -n "$word" ] || return 0
    replace "$CONFIG" 0600 awk -v line="global_endpoint = \"$word\"" '
        /^\[/ { if (inside && !done) { print line; done = 1 } inside = ($0 ~ /^\[provisioning\]/) }
        inside && /^[ \t]*global_endpoint[ \t]*=/ { $0 = line; done = 1 }
        { print }
        END { if (!done) { if (!inside) exit 1; print line } }' "$CONFIG"
}

# update-ca-certificates takes seconds, so it runs while network and time are coming. It wants one certificate a file.
start_trust() {
    [ -z "$trust" ] || wait "$trust"
    trust='' number=0
    trusted=$EP_ROOT/usr/local/share/ca-certificates
    for file in "$trusted"/edgepress-*.crt; do
        [ ! -e "$file" ] || { number=$((number + 1)) && rm -f "$file"; }
    done
    for file in "$STAGE"/ca/*; do
        [ -f "$file" ] || continue
        (umask 022 && mkdir -p "$trusted") || return 1
        number=$((number + 1))
        awk -v prefix="$trusted/edgepress-$number-" '
            /-----BEGIN / { out = prefix ++n ".crt" }
            out { print > out }
            /-----END / { close(out); out = "" }' "$file" || return 1
    done
    [ "$number" -gt 0 ] || return 0
    for file in "$trusted"/edgepress-*.crt; do [ ! -e "$file" ] || chmod 0644 "$file" || return 1; done
    (umask 022 && exec update-ca-certificates) >"$RUN/trust.log" 2>&1 &
    trust=$!
}

trust=
finish_overrides() {
    [ -n "$trust" ] || return 0
    wait "$trust" && trust='' && return 0
    trust='' prepared=
    why="update-ca-certificates: $(tail -n 1 "$RUN/trust.log")"
    return 1
}
