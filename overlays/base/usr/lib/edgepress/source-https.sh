# shellcheck shell=sh
# Source `https`: one file with certificate and key from a server of one's own.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

source_pending() {
    fat_has bootstrap-key.pem || fat_has bootstrap-token
}

source_find() {
    find_credentials "$1"
}

source_check() {
    check_bootstrap "$1"
}

source_obtain() {
    fill_in "$S_url" address || return 1
    server=${filled#https://}
    server=${server%%[/?]*}
    say "asking $server for the certificate of $registration"
    credentials "$1" | fetch "$RUN/answer" "$filled" || :
    read_status
    [ "$status" = 200 ] && unpack "$RUN/answer" "$1" || { retry_later "$(failure "$server")"; return 1; }
    obtained_is_sound "$1" "$server"
}
