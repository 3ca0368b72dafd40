# shellcheck shell=sh
# What servers answer, put in order: the device's certificate first, each followed by its issuer, the root left out.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# assemble POOL KEY OUT: of the certificates in the file POOL, in any order, the chain of the one that KEY belongs to.
assemble() {
    rm -rf "$RUN/pool"
    mkdir -p "$RUN/pool" || return 1
    awk -v folder="$RUN/pool" '
        /-----BEGIN / { n++; out = folder "/" n ".pem" }
        out { print > out }
        /-----END / { close(out); out = "" }' "$1" || return 1
    public=$(openssl pkey -in "$2" -passin pass: -pubout 2>/dev/null)
    [ -n "$public" ] || { trouble="the private key cannot be read"; return 1; }
    next=
    for file in "$RUN/pool"/*.pem; do
        [ -e "$file" ] || { trouble="it holds no certificate"; return 1; }
        openssl x509 -in "$file" -noout -subject -issuer -nameopt RFC2253 -pubkey >"$file.names" 2>/dev/null ||
            { trouble="it holds a certificate that cannot be read"; return 1; }
        [ "$(sed '/^-----BEGIN/,$!d' "$file.names")" != "$public" ] || next=$file
    done
    [ -n "$next" ] || { trouble="no certificate of it belongs to the private key"; return 1; }
    : >"$3"
    length=0
    while [ -n "$next" ] && [ "$length" -lt 8 ]; do
        openssl x509 -in "$next" >>"$3" || return 1
        length=$((length + 1))
        issuer=$(name_of issuer "$next")
        rm -f "$next"
        next=
        for file in "$RUN/pool"/*.pem; do
            [ -e "$file" ] && [ "$(name_of subject "$file")" = "$issuer" ] || continue
            # A root: whoever checks the chain has it.
            [ "$(name_of issuer "$file")" != "$issuer" ] || continue
            next=$file
        done
    done
}

# name_of subject|issuer FILE, of a certificate of the pool.
name_of() {
    sed -n "s/^$1=//p" "$2.names"
}

# unpack FILE FOLDER: a PEM file or PFX with key and certificates, in any order, becomes the stage's two files.
unpack() {
    rm -f "$RUN/overtime"
    if grep -q -e '-----BEGIN ' "$1" 2>/dev/null; then
        pem_text "$1" >"$RUN/bundle.pem"
    else
        open_pfx "$1" || return 1
    fi
    {
        pem_blocks 'PRIVATE KEY' <"$RUN/bundle.pem" >"$2/private-key.pem" &&
            pem_blocks CERTIFICATE <"$RUN/bundle.pem" >"$RUN/certificates.pem"
    } 2>"$RUN/verdict" || trouble=$(head -n 1 "$RUN/verdict")
    rm -f "$RUN/bundle.pem"
    [ -z "$trouble" ] || return 1
    [ -s "$2/private-key.pem" ] || { trouble="it holds no private key"; return 1; }
    assemble "$RUN/certificates.pem" "$2/private-key.pem" "$2/certificate.pem"
}

# What takes long in its newer form takes no less in the older one: a few seconds are for both.
open_pfx() {
    begun=$(date +%s)
    openssl pkcs12 -in "$1" -nodes -passin pass: -out "$RUN/bundle.pem" 2>/dev/null && return 0
    [ $(($(date +%s) - begun)) -le $((PATIENCE / 3)) ] || : >"$RUN/overtime"
    [ -e "$RUN/overtime" ] ||
        { openssl pkcs12 -legacy -in "$1" -nodes -passin pass: -out "$RUN/bundle.pem" 2>/dev/null && return 0; }
    trouble="it is neither PEM nor a PFX without password"
    [ ! -e "$RUN/overtime" ] || trouble="it takes more than $PATIENCE s to open"
    rm -f "$RUN/overtime" "$RUN/bundle.pem"
    return 1
}
