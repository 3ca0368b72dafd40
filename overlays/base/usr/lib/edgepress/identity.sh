# shellcheck shell=sh
# PEM, and checks of a certificate and its key. A check says on stderr why it refuses.
# shellcheck disable=SC2016,SC2034,SC2154 # awk programs; variables are shared with the script that sources this

# What was stopped for its length is said beside what it came to.
complain() {
    if [ -e "$RUN/overtime" ]; then
        rm -f "$RUN/overtime"
        set -- "$1 (given up after $PATIENCE s of work)"
    fi
    printf '%s\n' "$1" >&2
    return 1
}

# Bytes of a file that is taken from the partition: far above any that an identity needs.
LARGEST_TAKEN=262144
# Foreign bytes decide how long these two work (a PFX may ask for 2^31 rounds), so they get so many seconds of the processor
# at a time. Not of the clock: in a boot a good program waits for processor and card, and a good identity would be refused.
PATIENCE=${EP_PATIENCE:-6}
# Seconds of the clock for one that only waits.
CLOCK_PATIENCE=300

openssl() {
    bounded openssl "$@"
}

jq() {
    bounded jq "$@"
}

bounded() {
    # shellcheck disable=SC3045 # POSIX has no -t; dash, bash and busybox have.
    (ulimit -t "$PATIENCE" && exec timeout --foreground -k 1 "$CLOCK_PATIENCE" "$@")
    result=$?
    # Its time was up, or the kernel ended it (SIGKILL, SIGXCPU). A file, for what runs behind a pipe has variables of its own.
    case $result in 124 | 137 | 152) : >"$RUN/overtime" ;; esac
    return "$result"
}

# PEM (RFC 7468) as people and their programs write it. Every `-----BEGIN ` of a text is accounted for: what is one block for
# the eye is taken, whatever its line ends, or the line is named where it stops being one.
#
#   text before ─ -----BEGIN LABEL----- ─ base64 ─ -----END LABEL----- ─ text between ─ the next, perhaps in the same line

# Most certificates of a device's chain with what a server adds to it, and of a file of authorities (the whole of Mozilla's
# are about 150): each costs a start of openssl.
MOST_CERTIFICATES=20
MOST_AUTHORITIES=200

# Text without what only Windows adds: byte order marks, the zeros of UTF-16. Carriage returns stay: they may be the only
# ends of lines that there are.
pem_text() {
    tr -cd '\11\12\15\40-\176' <"$1"
}

# pem_blocks LABEL MOST: of the text on standard input the blocks whose label ends in LABEL, as OpenSSL writes them, and
# nothing else: neither a key beside the certificates nor the text before them belongs in a file that others may read. Says on
# stderr in which line something is wrong.
pem_blocks() {
    awk -v wanted="$1" -v most="${2:-$MOST_CERTIFICATES}" '
        function wrong(what) {
            if (!failed) print "line " number ": " what >"/dev/stderr"
            failed = 1
        }
        # Text between blocks may be anything that does not look like the border of one.
        function outside(text) {
            text = toupper(text)
            if (text ~ /^[ \t>-]*(BEGIN|END)[ \t]+([A-Z0-9]+[ \t]+)*(CERTIFICATE|KEY|REQUEST|CRL|CMS|PKCS7)[ \t-]*$/)
                wrong("what looks like the border of a block is none (-----BEGIN and -----END, with five dashes)")
        }
        function begin(name) {
            label = name; first = number; body = chunk = ""; headers = 1
        }
        function content(text) {
            if (headers && text ~ /^[A-Za-z][A-Za-z0-9-]*: /) {
                if (text ~ /ENCRYPTED/) wrong("the key is protected by a password")
                headers = 2
                return
            }
            # A header goes on in a line that begins with a blank.
            if (headers == 2 && text ~ /^[ \t]+[^ \t]/) return
            gsub(/[ \t]/, "", text)
            if (text == "") return
            headers = 0
            if (text ~ /[^A-Za-z0-9+\/=]/) wrong("a sign that is no base64, in the block that begins in line " first)
            # By pieces: a block of 100,000 short lines would be copied 100,000 times.
            chunk = chunk text
            if (length(chunk) > 1024) { body = body chunk; chunk = "" }
        }
        function finish(  at) {
            body = body chunk
            if (label == "X509 CERTIFICATE") label = "CERTIFICATE"
            if (label == "TRUSTED CERTIFICATE") {
                wrong("a TRUSTED CERTIFICATE, which only OpenSSL reads (openssl x509 makes a plain one)")
            } else if (label !~ /^(CERTIFICATE|((RSA|EC|DSA|ENCRYPTED|OPENSSH) )?PRIVATE KEY|EC PARAMETERS|PUBLIC KEY)$/) {
                wrong("a block " label ", which is neither certificate nor key")
            } else if (body == "") {
                wrong("the block that begins in line " first " is empty")
            }
            if (wanted == "CERTIFICATE" ? label != wanted : label !~ /PRIVATE KEY$/) return
            if (label == "ENCRYPTED PRIVATE KEY") wrong("the key is protected by a password")
            if (++count > (wanted == "CERTIFICATE" ? most : 1))
                wrong(wanted == "CERTIFICATE" ? "more than " most " certificates" : "a second private key")
            if (failed) return
            print "-----BEGIN " label "-----"
            for (at = 1; at <= length(body); at += 64) print substr(body, at, 64)
            print "-----END " label "-----"
        }
        function take(text,  at, rest, stop) {
            while (!failed) {
                at = index(text, first ? "-----" : "-----BEGIN ")
                if (!at) {
                    if (first) content(text); else outside(text)
                    return
                }
                rest = substr(text, 1, at - 1)
                if (rest != "") { if (first) content(rest); else outside(rest) }
                if (first && substr(text, at, 9) != "-----END ") {
                    wrong("the block that begins in line " first " has no end")
                    return
                }
                rest = substr(text, at + (first ? 9 : 11))
                stop = index(rest, "-----")
                if (!stop || (first && substr(rest, 1, stop - 1) != label)) {
                    wrong(first ? "the block that begins in line " first " does not end as it begins" \
                        : "five dashes are missing behind BEGIN")
                    return
                }
                text = substr(rest, stop + 5)
                if (first) { finish(); first = 0 } else begin(substr(rest, 1, stop - 1))
            }
        }
        {
            parts = split($0, part, "\r")
            # A carriage return at the end belongs to the line; others end lines of their own.
            if (parts > 1 && part[parts] == "") parts--
            for (i = 1; i <= parts || i == 1; i++) { number++; if (!failed) take(part[i]) }
        }
        END {
            if (first && !failed) wrong("the block that begins in line " first " has no end")
            exit failed
        }'
}

# only_line FILE: sets $line to what the file holds, without blanks around it; empty where there is nothing. More lines are
# refused: nobody can say which of them was meant.
only_line() {
    line='' more=
    [ -s "$1" ] || return 0
    more=$(grep -c '[^ 	]' "$1")
    [ "$more" -le 1 ] || complain "${1##*/} holds $more lines, and one is expected" || return 1
    line=$(sed -n '/[^ 	]/{s/^[ 	]*//; s/[ 	]*$//; p;}' "$1")
}

# Of the long text only what is said of the key: its lines begin with twelve blanks, those of names never do.
KEY_ONLY=no_header,no_version,no_serial,no_signame,no_validity,no_subject,no_issuer,no_sigdump,no_aux,no_extensions

# Sets what the other checks use: $leaf_name, $leaf_from, $leaf_to, $leaf_key (the public key), $leaf_kind of it, $leaf_bits,
# $leaf_curve (empty where that has no name).
read_leaf() {
    leaf=$(openssl x509 -in "$1" -noout -subject -nameopt multiline,utf8 -startdate -enddate -dateopt iso_8601 \
        -text -certopt "$KEY_ONLY" -pubkey 2>/dev/null) || return 1
    leaf_name='' leaf_from='' leaf_to='' leaf_key='' leaf_kind='' leaf_bits='' leaf_curve='' in_key=
    while IFS= read -r line; do
        case $line in
            '    commonName '*) leaf_name="$leaf_name${leaf_name:+ }${line#*= }" ;;
            notBefore=*) leaf_from=${line#*=} ;;
            notAfter=*) leaf_to=${line#*=} ;;
            '            Public Key Algorithm: '*) leaf_kind=${line#*: } ;;
            '            '*'Public-Key: ('*' bit'*) leaf_bits=${line#*(} leaf_bits=${leaf_bits%% *} ;;
            '            '*'ASN1 OID: '* | '            '*'NIST CURVE: '*) leaf_curve=${line#*: } ;;
            *-----BEGIN*) in_key=yes ;;
        esac
        [ -z "$in_key" ] || leaf_key="$leaf_key$line"
        case $line in *-----END*) in_key= ;; esac
    done <<EOF
$leaf
EOF
}

# What the identity service and DPS take, as `stamp` knows it (builder/src/stamp/certificate/purpose.rs).
KINDS='RSA of 2048 to 4096 bits, P-256 or P-384'

# check_kind WHOSE: the key of the certificate that was read last is one that the device's services sign in with.
check_kind() {
    kind=$leaf_kind
    case $leaf_kind:$leaf_curve in
        id-ecPublicKey:P-256 | id-ecPublicKey:P-384) return 0 ;;
        id-ecPublicKey:) kind="an elliptic curve without a name" ;;
        id-ecPublicKey:*) kind=$leaf_curve ;;
        rsaEncryption:*)
            [ "${leaf_bits:-0}" -lt 2048 ] || [ "$leaf_bits" -gt 4096 ] || return 0
            kind="RSA of $leaf_bits bits" ;;
    esac
    complain "the key of $1 is $kind, which the identity service or DPS refuses: $KINDS are taken"
}

# The certificate parses, names its device, and each certificate is followed by its issuer.
check_certificate() {
    read_leaf "$1" || complain "certificate.pem holds no certificate that can be read" || return 1
    [ -n "$leaf_name" ] || complain "the certificate has no common name" || return 1
    is_id "$leaf_name" || complain "the certificate's common name \"$leaf_name\" is no registration id" || return 1
    [ "${#leaf_name}" -le 64 ] ||
        complain "the certificate's common name has ${#leaf_name} characters, and at most 64 are possible" || return 1
    check_kind "the certificate" || return 1
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
    only_line "$1/registration-id" || return 1
    [ -z "$line" ] || [ "$line" = "$leaf_name" ] ||
        complain "registration id \"$line\" differs from the certificate's common name \"$leaf_name\""
}

# Makes the certificate that was read last the current identity.
identify() {
    valid_from=$(date -u -d "${leaf_from%Z}" +%s) && valid_to=$(date -u -d "${leaf_to%Z}" +%s) ||
        complain "the certificate's dates cannot be read" || return 1
    registration=$leaf_name ends=$leaf_to
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
