# shellcheck shell=sh
# Source `key-vault`: a secret of an Azure Key Vault, PEM or PFX, with certificate and key, and one that is the password for a
# registry, if the image says so.
#   token ─ managed-identity     instance metadata of an Azure VM
#         ├ arc                  the agent of Azure Arc, which shows by a file that the asker is root
#         └ client-certificate   an application's certificate signs the request (RFC 7523)
# Documented at https://learn.microsoft.com/rest/api/keyvault/secrets/get-secret and, for tokens,
# https://learn.microsoft.com/entra/identity-platform/certificate-credentials.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

VAULT_VERSION=7.4
ARC=${EP_ARC:-http://127.0.0.1:40342}
# Where the Arc agent puts the files that it names; a path elsewhere is not believed.
ARC_TOKENS=${EP_ARC_TOKENS:-/var/opt/azcmagent/tokens}

source_pending() {
    [ "$S_token" = client-certificate ] && fat_has bootstrap-key.pem
}

source_find() {
    [ "$S_token" != client-certificate ] || find_credentials "$1"
}

source_check() {
    [ "$S_token" = client-certificate ] || return 0
    check_bootstrap "$1" || return 1
    openssl pkey -in "$1/bootstrap-key.pem" -passin pass: -noout -text 2>/dev/null | grep -q '^modulus:' ||
        complain "bootstrap-key.pem is no RSA key, and applications are let in with RSA keys only"
}

# Tokens are for a whole cloud's vaults: https://vault.azure.net, .cn, .usgovcloudapi.net.
audience() {
    case $vault_name in
        *.vault.*) printf 'https://vault.%s' "${vault_name#*.vault.}" ;;
        *) printf 'https://vault.azure.net' ;;
    esac
}

source_obtain() {
    vault_name=${S_vault#https://}
    vault_name=${vault_name%%[/:]*}
    name_secret "$S_name" || return 1
    say "asking $vault_name for the secret $secret"
    ask_token "$1" || return 1
    ask_secret "${S_version:+/$S_version}" || return 1
    take_secret "$1" || { retry_later "$(failure "$vault_name")"; return 1; }
    obtained_is_sound "$1" "secret $secret" && obtain_login "$1"
    found=$?
    token=
    return "$found"
}

# name_secret TEMPLATE: sets $secret. What a secret's name cannot hold becomes a dash.
name_secret() {
    fill_in "$1" "name of a secret" || return 1
    secret=$(printf '%s' "$filled" | tr -c 'A-Za-z0-9-' '-')
}

# Sets $token.
ask_token() {
    case $S_token in
        managed-identity) who="the instance metadata" && ask_metadata ;;
        arc) who="the Azure Arc agent" && ask_arc ;;
        client-certificate) who=${S_authority#https://} && ask_authority "$1" ;;
    esac
    read_status
    token=
    [ "$status" != 200 ] || token=$(jq -r '.access_token // empty' "$RUN/answer" 2>/dev/null | tr -cd 'A-Za-z0-9._~+/=-')
    rm -f "$RUN/answer"
    [ -n "$token" ] || { retry_later "no token for the vault: $(failure "$who")"; return 1; }
}

# ask_secret [/VERSION]: the answer of the vault is in $RUN/answer.
ask_secret() {
    fetch "$RUN/answer" "$S_vault/secrets/$secret${1:-}?api-version=$VAULT_VERSION" <<EOF || :
header = "Authorization: Bearer $token"
EOF
    read_status
    case $status in
        200) ;;
        403) retry_later "$vault_name refuses this device (403): may its identity get secrets?"; return 1 ;;
        404) retry_later "$vault_name has no secret $secret (404)"; return 1 ;;
        *) retry_later "$(failure "$vault_name")"; return 1 ;;
    esac
}

# The login for the registry of edgeAgent's image, as the partition could have brought it; then the partition's counts.
obtain_login() {
    [ -n "$S_registry_secret" ] && [ ! -s "$1/registry-address" ] || return 0
    name_secret "$S_registry_secret" && fill_in "$S_registry_username" "user of the registry" || return 1
    say "asking $vault_name for the secret $secret"
    ask_secret || return 1
    jq -j '.value // empty' "$RUN/answer" >"$1/registry-password" 2>/dev/null &&
        printf '%s' "$filled" >"$1/registry-username" && printf '%s' "$S_registry_address" >"$1/registry-address"
    rm -f "$RUN/answer"
    take_login "$1" 2>"$RUN/verdict" && return 0
    retry_later "the secret $secret is no password: $(tail -n 1 "$RUN/verdict")"
    # Another pass asks again, and does not take what is there for the partition's.
    rm -f "$1/registry-address" "$1/registry-username" "$1/registry-password"
    return 1
}

take_login() {
    [ -s "$1/registry-password" ] || complain "it is empty" || return 1
    check_registry "$1" && set_registry
}

# PEM stands in the answer as it is, a PFX in base64.
take_secret() {
    type=$(jq -r '.contentType // empty' "$RUN/answer" 2>/dev/null) || { trouble="it is no JSON"; return 1; }
    case $type in
        application/x-pkcs12) jq -j '.value // empty' "$RUN/answer" | openssl base64 -d -A >"$RUN/secret" ;;
        *) jq -j '.value // empty' "$RUN/answer" >"$RUN/secret" ;;
    esac
    rm -f "$RUN/answer"
    unpack "$RUN/secret" "$1"
    done=$?
    rm -f "$RUN/secret"
    return "$done"
}

ask_metadata() {
    fetch "$RUN/answer" "$METADATA/metadata/identity/oauth2/token?api-version=2018-02-01&resource=$(audience)${S_client_id:+&client_id=$S_client_id}" <<'EOF' || :
header = "Metadata: true"
noproxy = "*"
EOF
}

ask_arc() {
    address="$ARC/metadata/identity/oauth2/token?api-version=2020-06-01&resource=$(audience)"
    fetch "$RUN/answer" "$address" <<'EOF' || return 0
header = "Metadata: true"
noproxy = "*"
EOF
    read_status
    [ "$status" = 401 ] || return 0
    file=$(tr -d '\r' <"$RUN/headers" | sed -n 's/^[Ww][Ww][Ww]-[Aa]uthenticate: *Basic realm="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p')
    case $file in
        *..* | *[!A-Za-z0-9._/-]*) return 0 ;;
        "$ARC_TOKENS"/*.key) [ -r "$file" ] || return 0 ;;
        *) return 0 ;;
    esac
    fetch "$RUN/answer" "$address" <<EOF || :
header = "Metadata: true"
header = "Authorization: Basic $(head -c 4096 "$file" | tr -cd 'A-Za-z0-9._~+/=-')"
noproxy = "*"
EOF
}

base64url() {
    openssl base64 -A | tr '+/' '-_' | tr -d '='
}

# A signed assertion: who asks, whom it asks, until when, by which certificate.
ask_authority() {
    address=$S_authority/$S_tenant/oauth2/v2.0/token
    now=$(date +%s)
    openssl x509 -in "$1/bootstrap-certificate.pem" -outform DER -out "$RUN/application.der" 2>/dev/null || return 0
    by=$(openssl dgst -sha256 -binary "$RUN/application.der" | base64url)
    first=$(printf '{"alg":"PS256","typ":"JWT","x5t#S256":"%s","x5c":["%s"]}' "$by" \
        "$(openssl base64 -A -in "$RUN/application.der")" | base64url)
    second=$(printf '{"aud":"%s","iss":"%s","sub":"%s","jti":"%s","nbf":%s,"iat":%s,"exp":%s}' "$address" "$S_client_id" \
        "$S_client_id" "$(openssl rand -hex 16)" "$((now - 60))" "$now" "$((now + 600))" | base64url)
    third=$(printf '%s.%s' "$first" "$second" | openssl dgst -sha256 -sigopt rsa_padding_mode:pss -sigopt \
        rsa_pss_saltlen:digest -sign "$1/bootstrap-key.pem" 2>/dev/null | base64url)
    {
        printf 'data = "grant_type=client_credentials&client_id=%s&scope=%s/.default' "$S_client_id" "$(audience)"
        printf '&client_assertion_type=urn:ietf:params:oauth:client-assertion-type:jwt-bearer'
        printf '&client_assertion=%s.%s.%s"\n' "$first" "$second" "$third"
    } | fetch "$RUN/answer" "$address" || :
}
