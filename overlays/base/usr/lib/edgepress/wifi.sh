# shellcheck shell=sh
# Wi-Fi from the identity: the network's name (wifi-ssid) and key (wifi-key), in images that were made for Wi-Fi.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

EP_WIFI_COUNTRY='' EP_WIFI_SSID='' EP_WIFI_HIDDEN=no
# shellcheck source=/dev/null
[ ! -e "$EP_LIB/wifi.conf" ] || . "$EP_LIB/wifi.conf"
WIFI=$EP_ROOT/etc/wpa_supplicant/wpa_supplicant-wlan0.conf

# Sets $ssid (hexadecimal: a name may hold any sign), $wifi_key and $more (what follows the key's line).
read_wifi() {
    ssid=$EP_WIFI_SSID wifi_key='' more=
    if [ -s "$1/wifi-ssid" ]; then
        ssid=$(head -n 1 "$1/wifi-ssid" | tr -d '\r\n' | od -An -v -tx1 | tr -d ' \n')
        ssid=${ssid#efbbbf}
    fi
    { IFS= read -r wifi_key || :; read -r more || :; } 2>/dev/null <"$1/wifi-key"
}

check_wifi() {
    [ -s "$1/wifi-ssid" ] || [ -s "$1/wifi-key" ] || return 0
    [ -n "$EP_WIFI_COUNTRY" ] ||
        complain "wifi-ssid and wifi-key are for images that were made for Wi-Fi, and this one was not" || return 1
    [ -s "$1/wifi-key" ] || complain "wifi-ssid comes without wifi-key" || return 1
    read_wifi "$1"
    [ -n "$ssid" ] || complain "wifi-key comes without wifi-ssid" || return 1
    [ "${#ssid}" -le 64 ] || complain "wifi-ssid is longer than 32 bytes" || return 1
    if [ -z "$more" ]; then
        case ${#wifi_key}:$wifi_key in
            *"	"*) ;;
            64:*[!0-9A-Fa-f]*) ;;
            [89]:* | [1-5][0-9]:* | 6[0-4]:*) return 0 ;;
        esac
    fi
    complain "wifi-key is no key: one line of 8 to 63 printable characters, or of 64 hexadecimal digits"
}

# What the recipe's own network becomes at build time, with the key as it came.
wifi_configuration() {
    printf '# From the identity of this device.\nctrl_interface=/run/wpa_supplicant\ncountry=%s\n' "$EP_WIFI_COUNTRY"
    printf 'network={\n\tssid=%s\n' "$ssid"
    [ "$EP_WIFI_HIDDEN" != yes ] || printf '\tscan_ssid=1\n'
    quote='"'
    [ "${#wifi_key}" -ne 64 ] || quote=
    printf '\tkey_mgmt=WPA-PSK\n\tpsk=%s%s%s\n}\n' "$quote" "$wifi_key" "$quote"
}

# The radio may not be there yet: udev starts the service then, hence no waiting.
set_wifi() {
    [ -s "$STAGE/wifi-key" ] || return 0
    read_wifi "$STAGE"
    wifi_configuration | cmp -s - "$WIFI" && return 0
    (umask 022 && mkdir -p "${WIFI%/*}") && replace "$WIFI" 077 wifi_configuration || return 1
    say "joining the Wi-Fi of the identity"
    systemctl --no-block restart wpa_supplicant@wlan0.service || :
}
