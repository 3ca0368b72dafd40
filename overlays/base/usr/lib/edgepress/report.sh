# shellcheck shell=sh
# What first boot says: to the console, the journal (standard output) and the status file.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

said="|"    # steps that were said of the current identity
reported=   # the last reason
remarks=    # what of the partition is not taken
ends=       # until when the certificate is valid, ISO 8601
passes=0
failures=0
retry=0
hub=
last_error=
last_error_at=

# Characters of a reason, and of all that is not taken.
LONGEST_REASON=200
LONGEST_REMARKS=800

# Fit for a terminal and for JSON: one line of plain characters; what is too long ends in three dots.
printable() {
    printf '%s' "$1" | tr '\n\t"\134' "  '/" | tr -cd '\40-\176' |
        awk -v most="$LONGEST_REASON" '{ print (length($0) > most ? substr($0, 1, most - 4) " ..." : $0) }'
}

console() {
    printf 'first boot: %s\n' "$1"
    { printf 'edgepress: first boot: %s\n' "$1" >>"$EP_ROOT/dev/console"; } 2>/dev/null || :
}

# The status file: one JSON object, replaced as a whole. The one under /run is there also when the disk is full.
state() {
    since=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    case $1 in refused | error) last_error=$2 last_error_at=$since ;; esac
    for file in "$RUN_STATE" "$VAR/state"; do
        (umask 022 && state_object "$1" "$2" >"$file.new") 2>/dev/null && mv -f "$file.new" "$file" 2>/dev/null || :
    done
}

state_object() {
    printf '{"state":"%s","since":"%s","reason":"%s"' "$1" "$since" "$2"
    [ -z "$registration" ] || printf ',"registration_id":"%s"' "$registration"
    [ -z "$S_from" ] || printf ',"source":"%s"' "$S_from"
    [ -z "$hub" ] || printf ',"hub":"%s"' "$hub"
    [ -z "$ends" ] || printf ',"valid_until":"%s"' "$ends"
    [ -z "$remarks" ] || printf ',"not_taken":"%s"' "$remarks"
    [ -z "$last_error" ] || printf ',"last_error":"%s","last_error_at":"%s"' "$last_error" "$last_error_at"
    printf '}\n'
}

# A step's line, once for each identity.
say() {
    case $said in *"|$1|"*) return 0 ;; esac
    said="$said$1|"
    reported=
    state working "$1"
    console "$1"
}

new_subject() {
    said='|' reported='' failures=0
}

# A reason, when it changes.
report() {
    [ "$reported" != "$1: $2" ] || return 0
    reported="$1: $2"
    text=$(printable "$2")
    state "$1" "$text"
    console "$1: $text"
}

# What the partition holds and nobody takes, in one line, when it changes. How many more there are is said, too.
tell_remarks() {
    told=$remarks
    remarks=
    # shellcheck disable=SC2153 # the file
    [ ! -s "$REMARKS" ] || remarks=$(remarks_line <"$REMARKS")
    [ -z "$remarks" ] || [ "$remarks" = "$told" ] || console "not taken from edgepress/: $remarks"
}

remarks_line() {
    tr '\t"\134' " '/" | tr -cd '\12\40-\176' | awk -v most="$LONGEST_REMARKS" -v longest="$LONGEST_REASON" '
        {
            if (length($0) > longest) $0 = substr($0, 1, longest - 4) " ..."
            if (left || length(line) + length($0) > most) { left += (/^and [0-9]+ more / ? $2 : 1); next }
            line = line (line == "" ? "" : "; ") $0
        }
        END { print line (left ? "; and " left " more" : "") }'
}

# Something is not there yet.
waiting() {
    report waiting "$1"
}

# The identity is wrong: a better one is waited for.
refused() {
    report refused "$1"
}

# Something of the device's own went wrong: it is tried again, ever more slowly.
failed() {
    report error "$1"
    back_off
}

# Somebody else's service is not as it should be: it is asked again for ever, ever more slowly, and not at the moment
# when all others ask that had the same trouble.
retry_later() {
    last_error=$(printable "$1") last_error_at=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    waiting "$1"
    back_off
    asked=$(retry_after)
    [ "$retry" -ge "$asked" ] || retry=$((asked < 600 ? asked : 600))
    retry=$((retry + $(jitter) * retry / 256))
}

back_off() {
    failures=$((failures + 1))
    retry=$((failures * 5))
    [ "$retry" -le 60 ] || retry=60
}

# 0 to 127.
jitter() {
    echo $(($(od -An -N1 -tu1 /dev/urandom) / 2))
}

# Between two passes: a second while things are coming up, two later on, longer after a failure.
pause() {
    passes=$((passes + 1))
    [ "$passes" -lt 120 ] || retry=$((retry + 1))
    sleep "$EP_PAUSE"
    while [ "$retry" -gt 0 ]; do
        sleep "$EP_PAUSE"
        retry=$((retry - 1))
    done
}
