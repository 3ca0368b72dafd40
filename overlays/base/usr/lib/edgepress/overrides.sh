# shellcheck shell=sh
# What an identity may bring beside certificate and key: hostname, hosts entries, SSH keys, CA certificates, endpoint;
# Wi-Fi is in wifi.sh, a registry in registry.sh.
# shellcheck disable=SC2016,SC2034,SC2154 # awk programs; variables are shared with the script that sources this

# Written into /etc/hosts: its presence means that the hostname is this device's own.
HOSTS_MARK='# From this device'"'"'s identity:'
# What stands below it was added by a person, and stays.
HOSTS_END='# End of what the identity brought.'

check_overrides() {
    only_line "$1/hostname" || return 1
    [ -z "$line" ] || [ "$(lower "$line")" = "$(label "$line")" ] ||
        complain "hostname \"$line\" is no host name (letters, digits and -, a letter first, at most 63)" || return 1
    only_line "$1/endpoint" || return 1
    case $line in
        '' | https://[A-Za-z0-9]*) ;;
        *) complain "endpoint \"$line\" is no https:// address" || return 1 ;;
    esac
    case ${line#https://} in
        *[!A-Za-z0-9.:/_-]*) complain "endpoint \"$line\" is no https:// address" || return 1 ;;
    esac
    check_wifi "$1" && check_registry "$1" || return 1
    check_hosts "$1"
    split_authorities
}

# Names the lines of `hosts` that the device will not have.
check_hosts() {
    [ -s "$1/hosts" ] || return 0
    hosts_lines "$1/hosts" other | remarks "hosts, line " " (an address, then names of letters, digits, dots and dashes)" "lines of hosts"
}

# hosts_lines FILE good|other: its lines as /etc/hosts wants them, without comments; or the numbers of the others. What an
# address is, is judged as `stamp` judges it (RFC 4291; of IPv4 four numbers without zeros before them).
hosts_lines() {
    tr '\15' '\12' <"$1" | awk -v wanted="$2" -v crlf="$(tr -cd '\15' <"$1" | wc -c)" '
        function is_ipv4(text,  parts, at) {
            if (split(text, parts, ".") != 4) return 0
            for (at = 1; at <= 4; at++) if (parts[at] !~ /^(0|[1-9][0-9]?[0-9]?)$/ || parts[at] + 0 > 255) return 0
            return 1
        }
        # How many of the eight groups of an address these are; the last two may be written as IPv4. Far too many: none.
        function groups(text, last,  parts, count, at) {
            count = split(text, parts, ":")
            for (at = 1; at <= count; at++) {
                if (last && at == count && is_ipv4(parts[at])) return count + 1
                if (parts[at] !~ /^[0-9A-Fa-f][0-9A-Fa-f]?[0-9A-Fa-f]?[0-9A-Fa-f]?$/) return 99
            }
            return count
        }
        function is_address(text,  gap) {
            if (text !~ /:/) return is_ipv4(text)
            gap = index(text, "::")
            if (!gap) return groups(text, 1) == 8
            return groups(substr(text, 1, gap - 1), 0) + groups(substr(text, gap + 2), 1) < 8
        }
        # Where every line ends in two signs, every other one is empty.
        { sub(/#.*/, ""); sub(/[ \t]+$/, "") }
        NF == 0 { next }
        NF > 1 && !/[^A-Za-z0-9:._ \t-]/ && is_address($1) { if (wanted == "good") print; next }
        wanted != "good" { print crlf ? int((NR + 1) / 2) : NR }'
}

# The nearest legal host name (RFC 1035: letters, digits, -, a letter first, at most 63). Of a longer one a digest of the
# whole takes the place of the end, which may be what tells two devices apart.
label() {
    name=$(lower "$1" | tr -c 'a-z0-9-' '-' | sed 's/^-*//')
    case $name in [!a-z]*) name=edge-$name ;; esac
    name=${name:-edge}
    [ "${#name}" -le 63 ] || name=$(printf '%.50s-%.12s' "$name" "$(printf '%s' "$1" | sha256sum)")
    while [ "${name%-}" != "$name" ]; do name=${name%-}; done
    printf '%s' "$name"
}

# The identity's, else the source's template, else the registration id.
set_hostname() {
    [ "$origin" = source ] || ! grep -q -F "$HOSTS_MARK" "$EP_ROOT/etc/hosts" || return 0
    only_line "$STAGE/hostname" || return 1
    if [ -z "$line" ] && [ -n "$S_hostname" ]; then
        other=
        [ "$EP_OVERRIDES" != yes ] || other=hostname
        fill_in "$S_hostname" hostname "$other" || return 1
        line=$filled
    fi
    host=$(label "${line:-$registration}")
    write_hosts && replace "$EP_ROOT/etc/hostname" 022 printf '%s\n' "$host" &&
        printf '%s\n' "$host" >"$EP_ROOT/proc/sys/kernel/hostname" && return 0
    failed "the hostname could not be set"
    return 1
}

# The image's own lines, this device's, and what a person added below them. (Before there was a mark for their end, all below
# the first one was this device's.)
write_hosts() {
    replace "$EP_ROOT/etc/hosts" 022 hosts_file
}

hosts_file() {
    awk -v mark="$HOSTS_MARK" '$0 == mark { exit } $1 != "127.0.1.1"' "$EP_ROOT/etc/hosts" || return 1
    printf '%s\n127.0.1.1 %s\n' "$HOSTS_MARK" "$host"
    [ ! -s "$STAGE/hosts" ] || hosts_lines "$STAGE/hosts" good || return 1
    printf '%s\n' "$HOSTS_END"
    awk -v mark="$HOSTS_END" 'after; $0 == mark { after = 1 }' "$EP_ROOT/etc/hosts"
}

# Wi-Fi first: it takes its time to come up.
apply_overrides() {
    set_wifi || { why="the Wi-Fi could not be configured"; return 1; }
    authorize || { why="the SSH keys could not be installed for $EP_USER"; return 1; }
    set_endpoint || { why="the endpoint could not be written into config.toml"; return 1; }
    set_registry || { why="the registry's credentials could not be written into config.toml"; return 1; }
    trust_authorities || { why="the CA certificates could not be installed"; return 1; }
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
        replace "$keys" 077 awk 'NF && !/^[ \t]*#/ && !known[$0]++' "$keys" "$STAGE/authorized_keys" &&
        chmod 0700 "$home/.ssh" && chown -R "$uid:$gid" "$home/.ssh"
}

# Safe in awk: check_overrides let only the characters of an address pass.
set_endpoint() {
    only_line "$STAGE/endpoint" || return 1
    [ -n "$line" ] || return 0
    replace "$CONFIG" 077 awk -v line="global_endpoint = \"$line\"" '
        /^\[/ { if (inside && !done) { print line; done = 1 } inside = ($0 ~ /^\[provisioning\]/) }
        inside && /^[ \t]*global_endpoint[ \t]*=/ { $0 = line; done = 1 }
        { print }
        END { if (!done) { if (!inside) exit 1; print line } }' "$CONFIG"
}

# One certificate a file, as update-ca-certificates wants them, and beside it the hash of its subject.
split_authorities() {
    rm -rf "$RUN/trust"
    mkdir -p "$RUN/trust" || return 1
    number=0 parts=0
    for file in "$STAGE"/ca/*; do
        [ -f "$file" ] || continue
        number=$((number + 1))
        awk -v prefix="$RUN/trust/edgepress-$number-" '
            /-----BEGIN / { n++; out = prefix n ".crt" }
            out { print > out }
            /-----END / { close(out); out = "" }' "$file" || return 1
        authority=$RUN/trust/edgepress-$number-1.crt part=1
        while [ "$part" -eq 1 ] || [ -e "$authority" ]; do
            openssl x509 -in "$authority" -noout -hash >"${authority%.crt}.hash" 2>/dev/null ||
                complain "ca/${file##*/} is no certificate" || return 1
            part=$((part + 1)) parts=$((parts + 1))
            [ "$parts" -le "$MOST_AUTHORITIES" ] ||
                complain "ca/ holds more than $MOST_AUTHORITIES certificates" || return 1
            authority=$RUN/trust/edgepress-$number-$part.crt
        done
    done
}

# Makes the system trust the identity's certificate authorities, and those of an earlier identity no more.
trust_authorities() {
    trusted=$EP_ROOT/usr/local/share/ca-certificates
    removed=
    for file in "$trusted"/edgepress-*.crt; do
        [ -e "$file" ] || continue
        cmp -s "$file" "$RUN/trust/${file##*/}" || { rm -f "$file" && removed=yes; }
    done
    for file in "$RUN/trust"/*.crt; do
        [ -e "$file" ] || continue
        name=${file##*/}
        (umask 022 && mkdir -p "$trusted") && replace "$trusted/$name" 022 cat "$file" || return 1
        [ -n "$removed" ] || trust_one "${name%.crt}" || return 1
    done
    [ -z "$removed" ] || (umask 022 && exec timeout 600 update-ca-certificates --fresh) >"$RUN/trust.log" 2>&1
}

# What update-ca-certificates comes to for one more certificate: a link by name, a link by the subject's hash, and a
# place in the bundle. It does all of them anew each time, and on an emulated or a small machine that takes a minute.
trust_one() {
    store=$EP_ROOT/etc/ssl/certs
    certificate=$trusted/$1.crt
    ln -sfn "/usr/local/share/ca-certificates/$1.crt" "$store/$1.pem" || return 1
    IFS= read -r hash <"$RUN/trust/$1.hash" || return 1
    slot=0
    while [ -L "$store/$hash.$slot" ]; do
        [ "$(readlink "$store/$hash.$slot")" != "$1.pem" ] || break
        slot=$((slot + 1))
    done
    ln -sfn "$1.pem" "$store/$hash.$slot" || return 1
    # The last line of base64 is the end of the signature: no other certificate has it.
    last=$(tail -n 2 "$certificate" | head -n 1)
    grep -q -F -e "$last" "$store/ca-certificates.crt" ||
        replace "$store/ca-certificates.crt" 022 cat "$store/ca-certificates.crt" "$certificate"
}
