# shellcheck shell=sh
# Source `est`: an EST server (RFC 7030) issues the certificate.
#   enrol = "runtime"      aziot-certd asks; it gets address, credentials and authorities
#   enrol = "first-boot"   the key is made here, and the certificate asked for here
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

ENROLMENT=$VAR/enrolment
EST_CA=$SECRETS/certs/est-ca.pem
EST_BOOTSTRAP=$SECRETS/certs/est-bootstrap.pem
EST_BOOTSTRAP_KEY=$SECRETS/keys/est-bootstrap.key.pem

source_pending() {
    fat_has bootstrap-key.pem || fat_has bootstrap-password
}

source_find() {
    find_credentials "$1"
}

source_check() {
    check_bootstrap "$1"
}

by_runtime() {
    [ "$S_enrol" = runtime ]
}

source_obtain() {
    ! by_runtime || return 0
    server=${S_url#https://}
    server=${server%%[/?]*}
    say "enrolling $registration at $server"
    make_request || { failed "the key could not be made"; return 1; }
    {
        credentials "$1"
        printf 'data-binary = "@%s"\n' "$RUN/request"
        printf 'header = "Content-Type: application/pkcs10"\nheader = "Content-Transfer-Encoding: base64"\n'
    } | fetch "$RUN/answer" "$S_url/simpleenroll" || :
    read_status
    case $status in
        200) ;;
        202) retry_later "$server has yet to approve the request (202)"; return 1 ;;
        *) retry_later "$(failure "$server")"; return 1 ;;
    esac
    certificates "$RUN/answer" >"$RUN/issued.pem" || { retry_later "$(failure "$server")"; return 1; }
    # The issuers, for the chain: a server that sends none is taken at its word.
    credentials "$1" | fetch "$RUN/answer" "$S_url/cacerts" || :
    read_status
    [ "$status" != 200 ] || certificates "$RUN/answer" >>"$RUN/issued.pem" || { retry_later "$(failure "$server")"; return 1; }
    status=200
    assemble "$RUN/issued.pem" "$ENROLMENT/key.pem" "$1/certificate.pem" &&
        (umask 077 && cat "$ENROLMENT/key.pem" >"$1/private-key.pem") || { retry_later "$(failure "$server")"; return 1; }
    obtained_is_sound "$1" "$server"
}

# The key outlives a power cut: whatever the server issued for it stays of use.
make_request() {
    mkdir -p "$ENROLMENT" && chmod 0700 "$ENROLMENT" || return 1
    [ -s "$ENROLMENT/key.pem" ] ||
        record "$ENROLMENT/key.pem" 077 openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 || return 1
    openssl req -new -key "$ENROLMENT/key.pem" -subj "/CN=$registration" -outform DER -out "$RUN/request.der" \
        2>/dev/null && openssl base64 -in "$RUN/request.der" -out "$RUN/request"
}

# The certificates of a certs-only PKCS#7 in base64, as PEM.
certificates() {
    tr -d ' \r\n' <"$1" | openssl base64 -d -A 2>/dev/null | openssl pkcs7 -inform DER -print_certs 2>/dev/null |
        pem_blocks CERTIFICATE 2>"$RUN/verdict" || { trouble=$(head -n 1 "$RUN/verdict"); return 1; }
}

source_install() {
    by_runtime || { install_static; return; }
    secret_folders || return 1
    [ -z "$SOURCE_CA" ] || put "$SOURCE_CA" "$EST_CA" aziotcs 0640 || return 1
    [ ! -s "$1/bootstrap-key.pem" ] || {
        put "$1/bootstrap-certificate.pem" "$EST_BOOTSTRAP" aziotcs 0640 &&
            put "$1/bootstrap-key.pem" "$EST_BOOTSTRAP_KEY" aziotks 0600
    } || return 1
    attest est "$1" && installed
}

source_on_device() {
    if by_runtime; then was_installed; else static_on_device; fi
}

# What first boot no longer needs.
source_done() {
    rm -rf "$ENROLMENT"
}
