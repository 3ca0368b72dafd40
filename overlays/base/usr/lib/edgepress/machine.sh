# shellcheck shell=sh
# What the machine can tell about itself: serial number, MAC address, name and id of an Azure VM. Each sets $value, or says in
# $unknown why there is none. What stands in the place of one is none: it is the same on many machines, and two devices would
# get one identity.
# shellcheck disable=SC2016,SC2034,SC2154 # awk programs; variables are shared with the script that sources this

METADATA=${EP_METADATA:-http://169.254.169.254}

# is_filler TEXT: is it what somebody put in a number's place? One sign or a few again and again; what counts (12345678,
# 9876543210, 11223344, 00010203); a version; or words, which are those that boards in the field show to dmidecode and that
# inventories leave out (GLPI's Blacklist.php), with numbers that are none beside them.
is_filler() {
    printf '%.200s\n' "$1" | tr '[:upper:]' '[:lower:]' | awk '
        # Is b the next of a, in decimal or hexadecimal or in the alphabet? A long row may begin anew.
        function follows(a, b, long,  order) {
            order = "0123456789abcdefghijklmnopqrstuvwxyz"
            return index(order, b) == index(order, a) + 1 || (long && a ~ /[9f]/ && b ~ /[01]/)
        }
        function counts(text, least,  at, a, b, up, down) {
            if (length(text) < least) return 0
            up = down = 1
            for (at = 2; at <= length(text); at++) {
                a = substr(text, at - 1, 1); b = substr(text, at, 1)
                if (!follows(a, b, length(text) > 7)) up = 0
                if (!follows(b, a, length(text) > 7)) down = 0
            }
            return up || down
        }
        function repeats(text, step,  at) {
            for (at = step + 1; at <= length(text); at++)
                if (substr(text, at, 1) != substr(text, at - step, 1)) return 0
            return length(text) >= 4 * step
        }
        # Of 1111-2222-3333 one sign of each run; nothing where a sign stands alone.
        function of_runs(text,  at, last, run, one) {
            for (at = 1; at <= length(text) + 1; at++) {
                if (at <= length(text) && substr(text, at, 1) == last) { run++; continue }
                if (last != "" && run < 2) return ""
                one = one last; last = substr(text, at, 1); run = 1
            }
            return one
        }
        # Of 00010203 every other sign.
        function every(text, from,  at, one) {
            for (at = from; at <= length(text); at += 2) one = one substr(text, at, 1)
            return one
        }
        function is_none(text,  step) {
            if (length(text) < 2 || text ~ /^(0+|f+|x+|n+|(dead|beef|cafe|babe|feed|face)+)$/) return 1
            for (step = 1; step <= 8; step++) if (repeats(text, step)) return 1
            if (counts(text, 4) || counts(of_runs(text), 4)) return 1
            if (repeats(every(text, 1), 1) && counts(every(text, 2), 4)) return 1
            gsub(/^0+|0+$/, "", text)
            return counts(text, 7)
        }
        BEGIN {
            words = "to be filled fill by o_e_m more string original equipment manufacturer vendor customer custom default " \
                "standard generic system sys serial ser number numb num nr sn s_n ssn bsn mb board base baseboard product " \
                "motherboard mainboard chassis case enclosure asset tag service value text field data here please enter " \
                "insert change me not non no none n_a null nil nan void blank empty unknown unknow undefined unspecified " \
                "specified found applicable available unavailable provided present assigned programmed set settable unset " \
                "supported used unused defined initialized uninitialized invalid error reserved tbd tba todo dummy " \
                "sample example placeholder test testing eval evaluation iatpass qwerty asdf"
            gsub(/ /, "|", words); gsub(/_/, " ?", words)
        }
        {
            if (/^v?[0-9]\.[0-9](\.[0-9])?$/ || /xxxxx/ || /^chassis/) exit found = 1
            gsub(/[^a-z0-9]+/, " "); sub(/^ /, ""); sub(/ $/, ""); sub(/^0x/, "")
            whole = $0; gsub(/ /, "", whole)
            for (group = 1; group <= NF && length($group) > 1 && is_none($group); group++);
            if (group > NF || is_none(whole)) exit found = 1
            while (match($0, /[0-9]+/)) {
                number = substr($0, RSTART, RLENGTH)
                if (number !~ /^0+$/ && (RLENGTH < 4 || !is_none(number))) exit
                $0 = substr($0, 1, RSTART - 1) " " substr($0, RSTART + RLENGTH)
            }
            found = ($0 ~ ("^( |x+|" words "s?)*$"))
        }
        END { exit !found }'
}

# none_of WHAT TEXT: why there is none, with what stands there instead.
none_of() {
    unknown="$1${2:+: \"$(printf '%.30s' "$2")\" is none}"
    return 1
}

serial() {
    stated=
    for file in /proc/device-tree/serial-number /sys/firmware/devicetree/base/serial-number \
        /sys/class/dmi/id/product_serial /sys/class/dmi/id/board_serial; do
        [ -r "$EP_ROOT$file" ] || continue
        value=$(tr -d '\0\r\n' <"$EP_ROOT$file" | sed 's/^[ \t]*//; s/[ \t]*$//')
        is_filler "$value" || return 0
        stated=${stated:-$value}
    done
    none_of "the machine has no serial number of its own (device tree, DMI)" "$stated"
}

# The MAC address of the first interface of the machine itself, cables first; never one that the kernel made up. Those that
# somebody administers himself come last: most are a hypervisor's, or made of the processor's number, and stay; but where a board
# has none, its boot loader may make up another at each start, and nothing tells them apart.
mac() {
    stated=
    for kind in universal own; do
        for folder in "$EP_ROOT"/sys/class/net/e* "$EP_ROOT"/sys/class/net/wl*; do
            [ -e "$folder/device" ] && [ -r "$folder/address" ] || continue
            [ "$(cat "$folder/addr_assign_type" 2>/dev/null)" = 0 ] || continue
            value=$(lower "$(tr -d ':\n' <"$folder/address")")
            case $value in ?[26ae]*) [ "$kind" = own ] || continue ;; *) [ "$kind" = universal ] || continue ;; esac
            ! is_station "$value" || return 0
            stated=${stated:-$(cat "$folder/address")}
        done
    done
    none_of "the machine has no interface with an address of its own" "$stated"
}

# Twelve hexadecimal digits that are one interface's: no group's, no memory that nobody wrote, no pattern, and not the one that
# all modems of a kind have (Huawei's HiLink).
is_station() {
    case $1 in *[!0-9a-f]* | ?[13579bdf]* | ??????000000 | ??????ffffff | 0c5b8f279a64) return 1 ;; esac
    [ "${#1}" -eq 12 ] && ! is_filler "$1"
}

# instance name|vmId: one value of the Azure VM's instance metadata, into $value.
instance() {
    fetch "$RUN/instance" "$METADATA/metadata/instance/compute/$1?api-version=2021-02-01&format=text" <<'EOF' || return 1
header = "Metadata: true"
noproxy = "*"
EOF
    read_status
    [ "$status" = 200 ] && [ -s "$RUN/instance" ] && value=$(head -n 1 "$RUN/instance" | tr -d '\r')
}

# Ids that many machines have: AMI's default, another that inventories leave out, and RFC 4122's example.
SHARED_IDS='03000200-0400-0500-0006-000700080009 6ab5b300-538d-1014-9fb5-b0684d007b53 123e4567-e89b-12d3-a456-426614174000'

vm_id() {
    instance vmId || { hopeless='' unknown="the instance metadata did not tell the VM's vmId"; return 1; }
    case " $SHARED_IDS " in *" $(lower "$value") "*) ;; *) is_filler "$value" || return 0 ;; esac
    none_of "the VM has no id of its own (instance metadata)" "$value"
}

vm_name() {
    instance name && return 0
    hopeless='' unknown="the instance metadata did not tell the VM's name"
    return 1
}
