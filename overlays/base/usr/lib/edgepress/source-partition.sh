# shellcheck shell=sh
# Source `partition`: certificate and key lie on the FAT partition.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

source_pending() {
    fat_has private-key.pem
}

source_find() {
    if [ -s "$1/private-key.pem" ] && [ -s "$1/certificate.pem" ]; then
        return 0
    elif fat_has certificate.pem; then
        missing="no private-key.pem in edgepress/ on the FAT partition"
    elif fat_has private-key.pem; then
        missing="no certificate.pem in edgepress/ on the FAT partition"
    elif fat_mounted; then
        missing="no identity in edgepress/ on the FAT partition"
    else
        fat_missing
    fi
    # What is there and cannot be read is the better reason.
    ! { fat_has private-key.pem && fat_has certificate.pem; } || return 0
    return 1
}

source_check() {
    check_certificate "$1/certificate.pem" && check_key "$1/private-key.pem" && check_registration "$1" && identify
}
