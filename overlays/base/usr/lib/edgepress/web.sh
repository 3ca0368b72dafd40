# shellcheck shell=sh
# Requests to the servers that certificates come from. Whatever is secret goes to curl by its standard input, never as an
# argument; answers stay in a folder that only root reads.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# Bytes; curl only looks at it where the server says how much comes, so the file is limited as well (in 512 bytes).
LARGEST_ANSWER=262144
LARGEST_FILE=1024

# fetch FILE URL: curl's own settings come on standard input. `read_status` tells how it went: behind a pipe this runs in
# a shell of its own.
fetch() {
    rm -f "$1" "$RUN/headers" "$RUN/status"
    (ulimit -f "$LARGEST_FILE" && exec curl --disable --globoff --silent --show-error --connect-timeout 15 --max-time 60 --max-filesize "$LARGEST_ANSWER" \
        --proto =http,https --url "$2" --output "$1" --dump-header "$RUN/headers" --write-out '%{http_code}\n' \
        --config -) >"$RUN/status" 2>"$RUN/trouble" && return 0
    echo 000 >"$RUN/status"
    return 1
}

# Sets $status (000: no answer) and $trouble.
read_status() {
    status=000 trouble=
    read -r status 2>/dev/null <"$RUN/status" || :
    [ "${status:-000}" != 000 ] || trouble=$(head -n 1 "$RUN/trouble" 2>/dev/null)
    # The same trouble is said once, so without how long it took this time.
    trouble=$(printf '%s' "${trouble#curl: }" | sed 's/ after [0-9]* m[a-z]*//')
}

# failure NAME: what the last request came to, in one line.
failure() {
    case $status in
        000) printf '%s cannot be reached: %s' "$1" "${trouble:-no answer}" ;;
        2??) printf '%s answered something that cannot be used%s' "$1" "${trouble:+: $trouble}" ;;
        401 | 403) printf '%s refuses this device (%s)' "$1" "$status" ;;
        404) printf '%s has nothing for this device (404)' "$1" ;;
        429) printf '%s is busy (429)' "$1" ;;
        *) printf '%s answered %s' "$1" "$status" ;;
    esac
}

# Seconds that the last answer asks to wait; 0 if it does not say, or names a date.
retry_after() {
    seconds=$(tr -d '\r' 2>/dev/null <"$RUN/headers" | sed -n 's/^[Rr]etry-[Aa]fter: 0*\([0-9]\{1,4\}\)$/\1/p' | tail -n 1)
    rm -f "$RUN/headers"
    printf '%s' "${seconds:-0}"
}

# curl's settings for a client certificate, a user, or a bearer token: whichever the identity in a folder brought.
credentials() {
    # `cacert` alone adds to the system's folder of authorities.
    [ -z "$SOURCE_CA" ] || printf 'cacert = "%s"\ncapath = "/dev/null"\n' "$SOURCE_CA"
    if [ -s "$1/bootstrap-certificate.pem" ] && [ -s "$1/bootstrap-key.pem" ]; then
        printf 'cert = "%s"\nkey = "%s"\n' "$1/bootstrap-certificate.pem" "$1/bootstrap-key.pem"
    fi
    if [ "$S_from" = est ] && [ -s "$1/bootstrap-username" ]; then
        printf 'user = "%s:%s"\nbasic\n' "$(escaped "$1/bootstrap-username")" "$(escaped "$1/bootstrap-password")"
    fi
    if [ "$S_from" = https ] && [ -s "$1/bootstrap-token" ]; then
        printf 'header = "Authorization: Bearer %s"\n' "$(escaped "$1/bootstrap-token")"
    fi
}

# The first line of a file, fit for a quoted string of curl's settings and of TOML.
escaped() {
    head -n 1 "$1" | sed 's/[\\"]/\\&/g'
}

# find_credentials FOLDER: what the source cannot do without is there; else sets $missing.
find_credentials() {
    for part in certificate key; do
        [ ! -s "$1/bootstrap-$part.pem" ] || { whole_pair "$1"; return; }
    done
    case $S_from in
        https) [ ! -s "$1/bootstrap-token" ] || return 0 ;;
        est)
            if [ -s "$1/bootstrap-username" ]; then
                missing="no bootstrap-password in edgepress/ on the FAT partition"
                [ -s "$1/bootstrap-password" ]
                return
            fi ;;
    esac
    missing="no bootstrap credentials for $S_from in edgepress/ on the FAT partition"
    return 1
}

whole_pair() {
    for part in certificate key; do
        missing="no bootstrap-$part.pem in edgepress/ on the FAT partition"
        [ -s "$1/bootstrap-$part.pem" ] || return 1
    done
}

# The bootstrap certificate and key belong together; says on stderr why not.
check_bootstrap() {
    [ -s "$1/bootstrap-certificate.pem" ] || return 0
    read_leaf "$1/bootstrap-certificate.pem" ||
        complain "bootstrap-certificate.pem holds no certificate that can be read" || return 1
    check_kind "the bootstrap certificate" && check_key "$1/bootstrap-key.pem" "the bootstrap certificate"
}
