# shellcheck shell=sh
# How an identity that was found good gets to its place on the device, and what is there already.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# The certificate, if there is one, is valid, by a clock that was set.
in_date() {
    [ -n "$valid_to" ] || return 0
    now=$(date +%s)
    if [ "$now" -ge "$valid_to" ]; then
        expired "the certificate expired on $leaf_to"
        return 1
    fi
    [ "$now" -lt "$valid_from" ] || return 0
    waiting "the certificate is not valid before $leaf_from"
    return 1
}

# A server may have a newer one; on the partition a person puts it.
expired() {
    if [ "$S_from" = partition ]; then refused "$1"; else retry_later "$1"; fi
    stale=$CERTIFICATE origin='' obtained='' placed='' applied=
}

secret_folders() {
    (umask 022 && mkdir -p "$SECRETS") && install -d -o root -g aziotcs -m 0750 "$SECRETS/certs" &&
        install -d -o root -g aziotks -m 0750 "$SECRETS/keys"
}

# The certificate before the key: identityd deletes a key whose certificate it cannot read.
install_static() {
    secret_folders && put "$STAGE/certificate.pem" "$CERTIFICATE" aziotcs 0640 &&
        put "$STAGE/private-key.pem" "$KEY" aziotks 0600 && attest static "$STAGE" && installed
}

# From here on the device's own copies will do: source, id, and which files of the partition they are from. Whatever else
# was taken from there (Wi-Fi, authorities, hosts) is not looked at again after a power cut, so it must be durable, too.
installed() {
    # Of root alone: a checksum of a short secret tells much of it.
    durable -f "$VAR" && record "$VAR/installed" 077 printf '%s %s\n%s\n' "$S_from" "$registration" "$seen"
}

# The partition holds nothing but what was installed, or what a power cut amid the wiping left of that.
already_taken() {
    [ -s "$VAR/installed" ] || return 1
    printf '%s\n' "$fingerprint" | awk 'NR == FNR { known[$0]; next }
        $0 != "" && !($0 in known) && !/\/wiping\.tmp$/ { other = 1 }
        END { exit other }' "$VAR/installed" -
}

# Sets $registration from what was installed for this source.
was_installed() {
    from='' id=
    read -r from id 2>/dev/null <"$VAR/installed" || return 1
    [ "$from" = "$S_from" ] && [ -n "$id" ] || return 1
    registration=$id valid_from='' valid_to=''
}

# Certificate and key in place: after a power cut between wiping and the last mark, or put there by a person.
static_on_device() {
    [ -s "$CERTIFICATE" ] && [ -s "$KEY" ] || return 1
    { check_certificate "$CERTIFICATE" && check_key "$KEY" && not_stale && identify; } 2>/dev/null
}

# A certificate that had expired by a wrong clock is good again by the right one.
not_stale() {
    [ "$stale" != "$CERTIFICATE" ] || [ "$(date +%s)" -lt "$(date -u -d "${leaf_to%Z}" +%s)" ]
}
