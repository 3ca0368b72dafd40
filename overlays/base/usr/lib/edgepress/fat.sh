# shellcheck shell=sh
# The folder `edgepress/` on the FAT partition, where any computer can write: what a device's identity may bring, taken
# into a clean copy, and how its secrets are wiped.
# shellcheck disable=SC2016,SC2034,SC2154 # programs in quotes; variables are shared with the script that sources this

MOUNT=$EP_ROOT$EP_FAT_MOUNT
FOLDER=$MOUNT/edgepress

# A partition that is not there after so many passes is taken for broken.
MOUNT_PATIENCE=60

# Files that are looked at, and those of a kind that are named where nobody takes them.
MOST_FILES=200
MOST_NAMED=5
# Names of authorities, as people and their programs give them, and FAT tells no case.
AUTHORITIES='\.(pem|crt|cer|cert|der)(\.txt)?$'
# Bytes of all of them: those of Mozilla have 230,000.
MOST_BYTES=2097152

# Files that hold a secret, and those that are of no use without one.
FAT_SECRETS='private-key.pem symmetric-key bootstrap-key.pem bootstrap-password bootstrap-token wifi-key registry-password'
FAT_COMPANIONS='certificate.pem bootstrap-certificate.pem bootstrap-username wifi-ssid registry-address registry-username'
# Everything else that is known there.
FAT_OTHERS='registration-id hostname hosts endpoint authorized_keys source.toml source-ca.pem wiping.tmp readme.txt'

fat_mounted() {
    while read -r _ point _; do
        [ "$point" != "$EP_FAT_MOUNT" ] || return 0
    done 2>/dev/null <"$EP_ROOT/proc/mounts"
    return 1
}

# The partition is there; or it does not come, and what the device has of its own must do. systemd tries to mount it once,
# for as long as it waits for the device: where that was too short, or the file system was not readable then, nobody else
# tries again.
fat_ready() {
    ! fat_mounted || return 0
    if [ $((passes % 10)) -eq 9 ]; then
        systemctl start --no-block "$(printf '%s' "${EP_FAT_MOUNT#/}" | tr / -).mount" 2>/dev/null
    fi
    [ "$passes" -gt "$MOUNT_PATIENCE" ]
}

fat_missing() {
    missing="the FAT partition is not mounted at $EP_FAT_MOUNT"
}

# Changes when anything does that may be taken, or is named as not taken, or the partition comes. What else lies there counts by
# its name, so that it hides nothing and costs little. Wiping takes lines away and changes none.
fat_fingerprint() {
    ! fat_mounted || echo mounted
    [ -d "$FOLDER" ] || return 0
    { strangers; authorities; others_in_ca; } | cksum
    {
        for name in $FAT_SECRETS $FAT_COMPANIONS $FAT_OTHERS; do printf '%s\n' "$FOLDER/$name" "$FOLDER/$name.txt"; done
        authorities | head -n "$MOST_FILES" | sed "s#^#$FOLDER/ca/#"
    } | tr '\n' '\0' | xargs -0 -r sh -c 'size=$1; shift; for file; do shift; [ ! -f "$file" ] || set -- "$@" "$file"; done
        [ "$#" -eq 0 ] || exec find "$@" -maxdepth 0 \( -size "-$size" -exec cksum {} + -o -printf "%s bytes: %p:\n" \)' \
        sh $((LARGEST_TAKEN / 512 + 1))
}

fat_has() {
    [ -s "$FOLDER/$1" ] || [ -s "$FOLDER/$1.txt" ]
}

# Nothing of what is there is passed over in silence: what cannot be taken as it is refuses the identity, with file and line,
# and what nobody knows is named in the status.
# The first reason against what is there, and what is not taken of it, a line each.
REFUSALS=$RUN/refusals
REMARKS=$RUN/remarks

refuse() {
    printf '%s\n' "$1" >>"$REFUSALS"
}

not_refused() {
    [ ! -s "$REFUSALS" ] || complain "$(head -n 1 "$REFUSALS")"
}

remark() {
    printf '%s\n' "$1" >>"$REMARKS"
}

# remarks BEFORE BEHIND WHAT: remarks on the first few of the lines on standard input, and how many more there are.
remarks() {
    awk -v before="$1" -v behind="$2" -v what="$3" -v most="$MOST_NAMED" '
        NR <= most { print before $0 behind }
        END { if (NR > most) print "and " NR - most " more " what }' >>"$REMARKS"
}

# Sets $file to the one of this name, if there is one that can be taken. Explorer hides the ending that Notepad adds.
find_file() {
    file=$FOLDER/$1
    if [ -f "$file" ]; then
        [ ! -f "$file.txt" ] || remark "$1.txt (there is $1)"
    else
        file=$file.txt
        [ -f "$file" ] || return 1
    fi
    is_small "$1"
}

is_small() {
    size=$(wc -c <"$file")
    [ "$size" -gt "$LARGEST_TAKEN" ] || return 0
    refuse "$1 has $size bytes, and at most $LARGEST_TAKEN are taken"
    return 1
}

# The bytes of a text without what only Windows needs: a byte order mark, the zeros of UTF-16.
unwrapped() {
    case $(head -c 3 "$1" | od -An -v -tx1 | tr -d ' \n') in
        efbbbf) tail -c +4 "$1" ;;
        fffe* | feff*) tail -c +3 "$1" ;;
        *) cat "$1" ;;
    esac | tr -d '\0'
}

# Text without what only Windows needs, and without whatever else is not plain ASCII.
plain_text() {
    unwrapped "$1" | tr '\15' '\12' | tr -cd '\11\12\40-\176'
}

# take_text NAME FOLDER: text in which what is no ASCII stands in comments.
take_text() {
    find_file "$1" || return 0
    plain_text "$file" >"$2/$1"
}

# take_value NAME FOLDER: text of which no sign may be lost: without it, it would be somebody else's name, or another key.
take_value() {
    find_file "$1" || return 0
    if [ "$(unwrapped "$file" | tr -d '\11\12\15\40-\176' | wc -c)" -ne 0 ]; then
        refuse "$1 holds a sign that is no plain ASCII"
        return 0
    fi
    plain_text "$file" >"$2/$1"
}

# A name that may hold any sign, in UTF-8; UTF-16 is taken as far as it is ASCII.
take_name() {
    find_file "$1" || return 0
    if [ "$(tr -cd '\0' <"$file" | wc -c)" -eq 0 ]; then cat "$file"; else plain_text "$file"; fi >"$2/$1"
}

# Any bytes: what they come to is judged line by line.
take_lines() {
    find_file "$1" || return 0
    unwrapped "$file" >"$2/$1"
}

# take_pem NAME FOLDER LABEL: only its blocks of that label.
take_pem() {
    find_file "$1" || return 0
    taken_pem "$@"
}

taken_pem() {
    pem_text "$file" | pem_blocks "$3" "${4:-}" >"$2/$1" 2>"$RUN/pem" && return 0
    refuse "$1, $(head -n 1 "$RUN/pem")"
    : >"$2/$1"
}

# A clean copy of everything that the identity brings, as far as the image wants to know of it.
fat_take() {
    rm -f "$REFUSALS" "$REMARKS"
    for name in certificate.pem bootstrap-certificate.pem; do take_pem "$name" "$1" CERTIFICATE || return 1; done
    for name in private-key.pem bootstrap-key.pem; do take_pem "$name" "$1" 'PRIVATE KEY' || return 1; done
    for name in symmetric-key bootstrap-username bootstrap-password bootstrap-token; do
        take_value "$name" "$1" || return 1
    done
    if is_former; then remark "registration-id (that of the identity before)"; else take_value registration-id "$1"; fi
    strangers | remarks '' '' files
    [ "$EP_OVERRIDES" = yes ] || return 0
    for name in endpoint hostname wifi-key registry-address registry-username registry-password; do
        take_value "$name" "$1" || return 1
    done
    take_text authorized_keys "$1" && take_lines hosts "$1" && take_name wifi-ssid "$1" &&
        take_pem source-ca.pem "$1" CERTIFICATE "$MOST_AUTHORITIES" && take_authorities "$1"
}

# Is the registration id on the partition still that of an earlier identity, where another one came? (A reset leaves behind
# what the partition held.)
is_former() {
    [ -s "${VAR:-}/former" ] || return 1
    fat_fingerprint | awk '
        NR == FNR { known[$0]; next }
        /\/registration-id(\.txt)?$/ { former = ($0 in known); next }
        /\/(certificate\.pem|source\.toml|symmetric-key|bootstrap-[a-z.-]*)(\.txt)?$/ && !($0 in known) { other = 1 }
        END { exit !(former && other) }' "$VAR/former" -
}

take_authorities() {
    mkdir -p "$1/ca" || return 1
    others_in_ca | remarks '' ' (no .pem, .crt, .cer, .cert or .der)' "files in ca/"
    if [ "$(authorities | wc -l)" -gt "$MOST_FILES" ]; then
        refuse "ca/ holds more than $MOST_FILES authorities"
        return 0
    fi
    bytes=0
    while IFS= read -r name; do
        file=$FOLDER/ca/$name
        [ -z "$name" ] || take_authority "ca/$name" "$1" || return 1
        [ "$bytes" -le "$MOST_BYTES" ] || { refuse "ca/ holds more than $MOST_BYTES bytes of authorities"; return 0; }
    done <<EOF
$(authorities)
EOF
}

authorities() {
    files_in "$FOLDER/ca" | grep -i -E "$AUTHORITIES"
}

others_in_ca() {
    files_in "$FOLDER/ca" | grep -v -i -E "$AUTHORITIES" | sed 's#^#ca/#'
}

# The names in a folder. How many there are is anybody's to choose: no program is started for each, nor is each looked up, for
# which the kernel reads the folder of a FAT from its beginning. (What macOS leaves begins with a dot.)
files_in() {
    find "$1" -maxdepth 1 -type f ! -name '.*' -printf '%f\n' 2>/dev/null | sort
}

# take_authority NAME FOLDER, of $file.
take_authority() {
    is_small "$1" || return 0
    bytes=$((bytes + size))
    if [ "$(head -c 1 "$file" | od -An -tx1)" = ' 30' ] &&
        openssl x509 -inform DER -in "$file" -out "$2/$1" 2>/dev/null; then return 0; fi
    taken_pem "$1" "$2" CERTIFICATE "$MOST_AUTHORITIES"
}

# What nobody will read: a misspelt file is an identity that does not come. (Windows leaves files of its own.)
strangers() {
    files_in "$FOLDER" | awk -v known="$FAT_SECRETS $FAT_COMPANIONS $FAT_OTHERS thumbs.db desktop.ini" '
        BEGIN { count = split(known, names, " "); for (at = 1; at <= count; at++) taken[names[at]] }
        { name = tolower($0) }
        name in taken { next }
        sub(/\.txt$/, "", name) && name in taken { next }
        { print }'
}

lower() {
    printf '%s' "$1" | tr '[:upper:]' '[:lower:]'
}

# A secret first loses its name, so that a power cut amid the wiping leaves nothing that looks like an identity, then its
# bytes are overwritten in place. (A card's own wear levelling may keep an old copy; nothing that software does
# reaches that.)
fat_wipe() {
    if ! fat_mounted; then
        [ -z "$fat_seen" ] || { why="the FAT partition is not mounted: a key on it could not be wiped"; return 1; }
        return 0
    fi
    forget || { mount -o remount,rw "$MOUNT" && forget; } ||
        { why="the key could not be wiped from the FAT partition (is it write-protected?)"; return 1; }
    sync -f "$MOUNT" 2>/dev/null || sync
}

forget() {
    wipe || return 1
    for secret in $FAT_SECRETS; do
        for file in "$FOLDER/$secret" "$FOLDER/$secret.txt"; do
            [ ! -e "$file" ] || { mv -f "$file" "$FOLDER/wiping.tmp" && wipe; } || return 1
        done
    done
    for name in $FAT_COMPANIONS; do
        for file in "$FOLDER/$name" "$FOLDER/$name.txt"; do
            [ ! -e "$file" ] || rm -f "$file" || return 1
        done
    done
}

wipe() {
    [ -e "$FOLDER/wiping.tmp" ] || return 0
    size=$(wc -c <"$FOLDER/wiping.tmp") || return 1
    [ "$size" -eq 0 ] || dd if=/dev/zero of="$FOLDER/wiping.tmp" bs="$size" count=1 conv=notrunc,fsync 2>/dev/null ||
        return 1
    rm -f "$FOLDER/wiping.tmp"
}
