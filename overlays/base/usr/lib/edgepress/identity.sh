# shellcheck shell=sh
# Checks of a certificate and its key, and how they get to their place. A check says on stderr why it refuses.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

complain() {
    printf '%s\n' "$1" >&2
    return 1
}

# The PEM blocks of the input whose label ends in $1, and nothing else: neither a key beside the certificates nor the
# text before them belongs in the file that others may read.
pem_blocks() {
    awk -v label="$1-----" '
        /-----BEGIN / { sub(/^.*-----BEGIN/, "-----BEGIN"); inside = index($0, label) }
        inside { print }
        /-----END / { inside = 0 }'
}

# Sets what the other checks use: $leaf_name, $leaf_from, $leaf_to, $leaf_key (the public key).
read_leaf() {
    leaf=$(openssl x509 -in "$1" -noout -subject -nameopt multiline,utf8 -startdate -enddate -dateopt iso_8601 \
        -pubkey 2>/dev/null) || return 1
    leaf_name='' leaf_from='' leaf_to='' leaf_key='' in_key=
    while IFS= read -r line; do
        case $line in
            '    commonName '*) leaf_name="$leaf_name${leaf_name:+ }${line#*= }" ;;
            notBefore=*) leaf_from=${line#*=} ;;
            notAfter=*) leaf_to=${line#*=} ;;
            *-----BEGIN*) in_key=yes ;;
        esac
        [ -z "$in_key" ] || leaf_key="$leaf_key$line"
        case $line in *-----END*) in_key= ;; esac
    done <<EOF
$leaf
EOF
}

# The certificate parses, names its device, and each certificate is followed by its issuer.
check_certificate() {
    read_leaf "$1" || complain "certificate.pem holds no certificate that can be read" || return 1
    case $leaf_name in
        '') complain "the certificate has no common name" || return 1 ;;
        *[!A-Za-z0-9._:-]*)
            complain "the certificate's common name \"$leaf_name\" is no registration id" || return 1 ;;
    esac
    blocks=$(grep -c -e '-----BEGIN ' "$1")
    [ "$blocks" -gt 1 ] || return 0
    chain=$(openssl crl2pkcs7 -nocrl -certfile "$1" 2>/dev/null | openssl pkcs7 -print_certs -noout 2>/dev/null)
    issuer='' count=0
    while IFS= read -r line; do
        case $line in
            subject=*)
                count=$((count + 1))
                [ "$count" -eq 1 ] || [ "${line#subject=}" = "$issuer" ] ||
                    complain "certificate.pem is out of order: certificate $count did not issue the one before it" ||
                    return 1 ;;
            issuer=*) issuer=${line#issuer=} ;;
        esac
    done <<EOF
$chain
EOF
    [ "$count" -eq "$blocks" ] || complain "certificate.pem holds a certificate that cannot be read"
}

# check_key FILE [OF]: the key parses and belongs to the certificate that was read last. The password is empty so that a
# protected key is an error and not a question.
check_key() {
    public=$(openssl pkey -in "$1" -passin pass: -pubout 2>/dev/null | tr -d '\n')
    [ -n "$public" ] || complain "${1##*/} holds no key that can be read (damaged, or protected by a password)" ||
        return 1
    [ "$public" = "$leaf_key" ] || complain "the private key does not match ${2:-the certificate}"
}

# The registration id is optional, but DPS answers 401 where it differs from the common name.
check_registration() {
    [ -s "$1/registration-id" ] || return 0
    text=
    IFS=' 	' read -r text <"$1/registration-id" || :
    [ -z "$text" ] || [ "$text" = "$leaf_name" ] ||
        complain "registration id \"$text\" differs from the certificate's common name \"$leaf_name\""
}

# Makes the certificate that was read last the current identity.
identify() {
    valid_from=$(date -u -d "${leaf_from%Z}" +%s) && valid_to=$(date -u -d "${leaf_to%Z}" +%s) ||
        complain "the certificate's dates cannot be read" || return 1
    registration=$leaf_name
}

# What a server gave is this device's, whole, and fits together; else it is asked again later.
obtained_is_sound() {
    valid_from='' valid_to=''
    if { check_certificate "$1/certificate.pem" && check_key "$1/private-key.pem"; } 2>"$RUN/verdict"; then
        if [ "$leaf_name" = "$registration" ] && identify 2>"$RUN/verdict"; then return 0; fi
        printf 'its common name is "%s"\n' "$leaf_name" >>"$RUN/verdict"
    fi
    rm -f "$1/certificate.pem" "$1/private-key.pem"
    retry_later "$2 gave a certificate that is not for $registration: $(tail -n 1 "$RUN/verdict")"
    return 1
}

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
    durable -f "$VAR" && record "$VAR/installed" 022 printf '%s %s\n%s\n' "$S_from" "$registration" "$seen"
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

# Survives a power cut from here on.
durable() {
    sync "$@"
}

# replace FILE UMASK COMMAND...: the file becomes the command's output, whole or not at all. It is durable once somebody
# says so: `finish` does before anything is wiped, and until then the partition has it all.
replace() {
    file=$1 mask=$2
    shift 2
    (umask "$mask" && "$@" >"$file.new") && mv -f "$file.new" "$file"
}

# As `replace`, and durable: at any instant it is the old file or the whole new one, also after a power cut.
record() {
    file=$1 mask=$2
    shift 2
    (umask "$mask" && "$@" >"$file.new") && durable "$file.new" && mv -f "$file.new" "$file" && durable "${file%/*}"
}

# put SOURCE DESTINATION USER MODE: at any instant the destination is the old file or the whole new one.
put() {
    install -o "$3" -g "$3" -m "$4" "$1" "$2.new" && durable "$2.new" && mv -f "$2.new" "$2" && durable "${2%/*}"
}
