# shellcheck shell=sh
# The folder `edgepress/` on the FAT partition, where any computer can write: what a device's identity may bring, taken
# into a clean copy, and how its secrets are wiped.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

MOUNT=$EP_ROOT$EP_FAT_MOUNT
FOLDER=$MOUNT/edgepress

# A partition that is not there after so many passes is taken for broken.
MOUNT_PATIENCE=60

# Files that hold a secret, and those that are of no use without one.
FAT_SECRETS='private-key.pem symmetric-key bootstrap-key.pem bootstrap-password bootstrap-token wifi-key'
FAT_COMPANIONS='certificate.pem bootstrap-certificate.pem bootstrap-username wifi-ssid'

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

# Changes when anything in the folder does, or the partition comes.
fat_fingerprint() {
    ! fat_mounted || echo mounted
    [ ! -d "$FOLDER" ] || find "$FOLDER" -type f -size -2048 -exec cksum {} +
}

fat_has() {
    [ -s "$FOLDER/$1" ] || [ -s "$FOLDER/$1.txt" ]
}

# Text as Windows writes it loses what only Windows needs: carriage returns, byte order marks, the zeros of UTF-16.
plain_text() {
    tr -cd '\11\12\40-\176' <"$1"
}

# take_text NAME FOLDER. Explorer hides the ending that Notepad adds.
take_text() {
    for file in "$FOLDER/$1" "$FOLDER/$1.txt"; do
        [ -f "$file" ] || continue
        plain_text "$file" >"$2/$1"
        return
    done
}

# A name that may hold any sign, in UTF-8; UTF-16 is taken as far as it is ASCII.
take_name() {
    for file in "$FOLDER/$1" "$FOLDER/$1.txt"; do
        [ -f "$file" ] || continue
        if [ "$(tr -cd '\0' <"$file" | wc -c)" -eq 0 ]; then cat "$file"; else plain_text "$file"; fi >"$2/$1"
        return
    done
}

# take_pem NAME FOLDER LABEL: only its blocks of that label.
take_pem() {
    for file in "$FOLDER/$1" "$FOLDER/$1.txt"; do
        [ -f "$file" ] || continue
        plain_text "$file" | pem_blocks "$3" >"$2/$1"
        return
    done
}

# A clean copy of everything that the identity brings, as far as the image wants to know of it.
fat_take() {
    for name in certificate.pem bootstrap-certificate.pem; do take_pem "$name" "$1" ' CERTIFICATE' || return 1; done
    for name in private-key.pem bootstrap-key.pem; do take_pem "$name" "$1" 'PRIVATE KEY' || return 1; done
    for name in registration-id symmetric-key bootstrap-username bootstrap-password bootstrap-token; do
        take_text "$name" "$1" || return 1
    done
    [ "$EP_OVERRIDES" = yes ] || return 0
    for name in hosts authorized_keys endpoint hostname wifi-key; do take_text "$name" "$1" || return 1; done
    take_name wifi-ssid "$1" && take_pem source-ca.pem "$1" ' CERTIFICATE' || return 1
    mkdir -p "$1/ca"
    for authority in "$FOLDER"/ca/*.pem "$FOLDER"/ca/*.crt; do
        [ ! -f "$authority" ] || take_pem "ca/${authority##*/}" "$1" ' CERTIFICATE' || return 1
    done
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
