# shellcheck shell=sh
# What a source of certificates answers to, and what most of them answer. The files source-*.sh say otherwise where they
# must; which one counts is known when the partition was read.
#
#   source_pending          the partition still holds a secret of this source, which must be used and wiped
#   source_find FOLDER      everything needed is there; else sets $missing
#   source_check FOLDER     what is there fits together; says on stderr why not
#   source_obtain FOLDER    network and clock are there: get certificate.pem and private-key.pem; says itself why not
#   source_install FOLDER   put it in place, durably
#   source_on_device        the device has everything in place already
#   source_done             forget what only first boot needed
# shellcheck disable=SC2034,SC2154,SC2317 # variables and functions are shared with the script that sources this

use_source() {
    source_obtain() { return 0; }
    source_install() { install_static; }
    source_on_device() { static_on_device; }
    source_done() { return 0; }
    # shellcheck source=/dev/null
    . "$EP_LIB/source-$S_from.sh"
}
