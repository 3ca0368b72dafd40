# shellcheck shell=sh
# The part of config.toml that says who the device is. The image's own is for a certificate from a file, which names no
# device; for every other source the tables are written anew here.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# attest static|est|tpm|symmetric-key FOLDER
attest() {
    if [ "$1" = static ] && awk '
        /^[ \t]*\[/ { inside = ($0 ~ /^[ \t]*\[provisioning\.attestation\]/) }
        inside && /^[ \t]*identity_cert[ \t]*=[ \t]*"/ { found = 1 }
        END { exit !found }' "$CONFIG"; then return 0; fi
    record "$CONFIG" 077 attested "$1" "$2"
}

# A config.toml without these tables.
unattested() {
    awk '/^[ \t]*\[/ { skip = ($0 ~ /^[ \t]*\[(provisioning\.attestation|cert_issuance)[].]/) }
        !skip { print }' "$1"
}

attested() {
    unattested "$CONFIG" && printf '\n[provisioning.attestation]\n' || return 1
    case $1 in
        static)
            printf 'method = "x509"\nidentity_cert = "file://%s"\nidentity_pk = "file://%s"\n' \
                "${CERTIFICATE#"$EP_ROOT"}" "${KEY#"$EP_ROOT"}" ;;
        est) attested_by_est "$2" ;;
        tpm) printf 'method = "tpm"\nregistration_id = "%s"\n' "$registration" ;;
        symmetric-key)
            printf 'method = "symmetric_key"\nregistration_id = "%s"\n' "$registration"
            printf 'symmetric_key = { uri = "file://%s" }\n' "${SYMMETRIC_KEY#"$EP_ROOT"}" ;;
    esac
}

attested_by_est() {
    printf 'method = "x509"\nregistration_id = "%s"\n' "$registration"
    printf '\n[provisioning.attestation.identity_cert]\nmethod = "est"\ncommon_name = "%s"\n' "$registration"
    if [ "$S_auto_renew" = true ]; then
        printf '\n[provisioning.attestation.identity_cert.auto_renew]\n'
        printf 'rotate_key = true\nthreshold = "80%%"\nretry = "4%%"\n'
    fi
    printf '\n[cert_issuance.est]\n'
    [ -z "$SOURCE_CA" ] || printf 'trusted_certs = ["file://%s"]\n' "${EST_CA#"$EP_ROOT"}"
    printf '\n[cert_issuance.est.auth]\n'
    if [ -s "$1/bootstrap-key.pem" ]; then
        printf 'bootstrap_identity_cert = "file://%s"\n' "${EST_BOOTSTRAP#"$EP_ROOT"}"
        printf 'bootstrap_identity_pk = "file://%s"\n' "${EST_BOOTSTRAP_KEY#"$EP_ROOT"}"
    fi
    if [ -s "$1/bootstrap-username" ]; then
        printf 'username = "%s"\n' "$(escaped "$1/bootstrap-username")"
        printf 'password = "%s"\n' "$(escaped "$1/bootstrap-password")"
    fi
    printf '\n[cert_issuance.est.urls]\ndefault = "%s"\n' "$S_url"
}
