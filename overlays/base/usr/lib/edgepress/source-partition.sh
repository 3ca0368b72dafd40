# shellcheck shell=sh
# Identity from the folder `edgepress/` on the FAT partition, where any computer can write it.
#
# A source answers to: source_find (is there an identity? else sets $missing), source_settled (may the device's own
# copies be used instead?), source_fingerprint (prints what changes when the identity does), source_take FOLDER (makes
# a clean copy: certificate.pem, private-key.pem and what else there is), source_wipe (forgets the key for good).
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

MOUNT=$EP_ROOT$EP_FAT_MOUNT
FOLDER=$MOUNT/edgepress

# A partition that is not there after so many passes is taken for broken.
MOUNT_PATIENCE=60

fat_mounted() {
    while read -r _ point _; do
        [ "$point" != "$EP_FAT_MOUNT" ] || return 0
    done 2>/dev/null <"$EP_ROOT/proc/mounts"
    return 1
}

source_find() {
    if ! fat_mounted; then
        missing="the FAT partition is not mounted at $EP_FAT_MOUNT"
    elif [ -s "$FOLDER/private-key.pem" ] && [ -s "$FOLDER/certificate.pem" ]; then
        return 0
    elif [ -s "$FOLDER/certificate.pem" ]; then
        missing="no private-key.pem in edgepress/ on the FAT partition"
    elif [ -s "$FOLDER/private-key.pem" ]; then
        missing="no certificate.pem in edgepress/ on the FAT partition"
    else
        missing="no identity in edgepress/ on the FAT partition"
    fi
    return 1
}

# Not before the partition was seen: a key on it would never be wiped.
source_settled() {
    if fat_mounted; then [ ! -s "$FOLDER/private-key.pem" ]; else [ "$passes" -gt "$MOUNT_PATIENCE" ]; fi
}

source_fingerprint() {
    find "$FOLDER" -type f -size -2048 -exec cksum {} +
}

# Text as Windows writes it loses what only Windows needs: carriage returns, byte order marks, the zeros of UTF-16.
plain_text() {
    tr -cd '\11\12\40-\176' <"$1"
}

# Explorer hides the ending that Notepad adds.
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

take_pem() {
    plain_text "$1" | pem_blocks "$3" >"$2"
}

source_take() {
    take_pem "$FOLDER/certificate.pem" "$1/certificate.pem" ' CERTIFICATE' &&
        take_pem "$FOLDER/private-key.pem" "$1/private-key.pem" 'PRIVATE KEY' &&
        take_text registration-id "$1" || return 1
    [ "$EP_OVERRIDES" = yes ] || return 0
    for name in hosts authorized_keys endpoint hostname wifi-key; do take_text "$name" "$1" || return 1; done
    take_name wifi-ssid "$1" || return 1
    mkdir -p "$1/ca"
    for file in "$FOLDER"/ca/*.pem "$FOLDER"/ca/*.crt; do
        [ ! -f "$file" ] || take_pem "$file" "$1/ca/${file##*/}" ' CERTIFICATE' || return 1
    done
}

# The key first loses its name, so that a power cut amid the wiping leaves nothing that looks like an identity, then its
# bytes are overwritten in place. (A card's own wear levelling may keep an old copy; nothing that software does
# reaches that.)
source_wipe() {
    fat_mounted || { why="the FAT partition is not mounted: a key on it could not be wiped"; return 1; }
    forget || { mount -o remount,rw "$MOUNT" && forget; } ||
        { why="the key could not be wiped from the FAT partition"; return 1; }
    sync -f "$MOUNT" 2>/dev/null || sync
}

forget() {
    [ ! -e "$FOLDER/private-key.pem" ] || mv -f "$FOLDER/private-key.pem" "$FOLDER/wiping.tmp" || return 1
    for secret in wiping.tmp wifi-key wifi-key.txt; do wipe "$FOLDER/$secret" || return 1; done
    rm -f "$FOLDER/certificate.pem" "$FOLDER/wifi-ssid" "$FOLDER/wifi-ssid.txt"
}

wipe() {
    [ -e "$1" ] || return 0
    size=$(wc -c <"$1") || return 1
    [ "$size" -eq 0 ] || dd if=/dev/zero of="$1" bs="$size" count=1 conv=notrunc,fsync 2>/dev/null || return 1
    rm -f "$1"
}
