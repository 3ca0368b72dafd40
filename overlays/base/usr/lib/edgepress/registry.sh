# shellcheck shell=sh
# Credentials of the registry that edgeAgent's own image comes from. The runtime pulls that image before the hub has told it
# anything, so they stand in config.toml; those of other modules are in the deployment manifest.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# Stands first in the table that is this device's own: what rewrites other tables leaves it there.
REGISTRY_MARK='# From the identity of this device:'

check_registry() {
    there=
    for name in address username password; do [ ! -s "$1/registry-$name" ] || there="$there $name"; done
    [ -n "$there" ] || return 0
    [ "$there" = ' address username password' ] ||
        complain "of registry-address, registry-username and registry-password one is missing" || return 1
    only_line "$1/registry-address" || return 1
    is_registry "$line" ||
        complain "registry-address is no registry as an image's name begins with it (registry.example, or with :5000)" ||
        return 1
    only_line "$1/registry-username" || return 1
    [ -n "$line" ] || complain "registry-username holds no name" || return 1
    only_line "$1/registry-password" || return 1
    [ -n "$line" ] || complain "registry-password holds no password"
}

# HOST or HOST:PORT
is_registry() {
    case $1 in '' | *[!A-Za-z0-9.:-]* | [!A-Za-z0-9]*) return 1 ;; esac
    case $1 in
        *:*) case ${1#*:} in '' | *[!0-9]*) return 1 ;; esac ;;
        # Any other word is a name at Docker Hub.
        *.* | localhost) ;;
        *) return 1 ;;
    esac
}

# without_registry FILE [own]: a config.toml without credentials of its registry: any, or those of the identity alone.
without_registry() {
    awk -v mark="$REGISTRY_MARK" -v own="${2:-}" '
        header != "" {
            skip = ($0 == mark)
            if (!skip) print header
            header = ""
        }
        /^[ \t]*\[/ {
            skip = 0
            if (/^[ \t]*\[[ \t]*agent[ \t]*\.[ \t]*config[ \t]*\.[ \t]*auth[ \t]*\]/) {
                if (own != "") { header = $0; next }
                skip = 1
            }
        }
        !skip
        END { if (header != "") print header }' "$1"
}

# A value of one line as a string of TOML.
quoted_line() {
    only_line "$1" && printf '"%s"\n' "$(printf '%s' "$line" | sed 's/[\\"]/\\&/g; s/\t/\\t/g')"
}

with_registry() {
    without_registry "$CONFIG" && printf '[agent.config.auth]\n%s\nserveraddress = ' "$REGISTRY_MARK" &&
        quoted_line "$STAGE/registry-address" && printf 'username = ' && quoted_line "$STAGE/registry-username" &&
        printf 'password = ' && quoted_line "$STAGE/registry-password"
}

set_registry() {
    if [ -s "$STAGE/registry-address" ]; then
        replace "$CONFIG" 077 with_registry
    elif grep -q -x -F "$REGISTRY_MARK" "$CONFIG"; then
        replace "$CONFIG" 077 without_registry "$CONFIG" own
    fi
}
