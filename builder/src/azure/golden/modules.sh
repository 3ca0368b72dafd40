#!/usr/bin/env bash
# Gives the modules of factory (deployment.json) to devices. Written by edgepress azure.
#
#   ./modules.sh fleet HUB [PRIORITY]     to every device with the tag edgepress = factory, which dps.sh gives those that come
#   ./modules.sh device HUB DEVICE        to this one alone
#   ./modules.sh tag HUB DEVICE           gives the tag to a device that came before
#   ./modules.sh token factory    a token that may pull what the devices need, and nothing else; prints what the others ask for:
#                                         eval "$(./modules.sh token factory)"
#
# Each may be run again. Needs the Azure CLI, logged in (az login); its extension azure-iot is installed where it is missing.
# deployment.json has no passwords. They come from the environment, and jq puts them in:
#   REGISTRY_OWN_USERNAME, REGISTRY_OWN_PASSWORD    for factory.azurecr.io
#   REGISTRY_PLANT_USERNAME, REGISTRY_PLANT_PASSWORD    for plant.example:5000
set -euo pipefail

fleet='factory'
manifest=$(dirname "$0")/deployment.json
say() { printf 'modules: %s\n' "$1" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf ' hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

for tool in az jq; do
    command -v "$tool" >/dev/null || die "$tool is not installed" 'README.md says where to get it' 2
done
account=$(az account show --query name --output tsv 2>/dev/null) || die 'nobody is logged in' 'az login' 2
say "subscription: $account"
extension() {
    az extension show --name azure-iot --output none 2>/dev/null || az extension add --name azure-iot --output none
}

# The manifest as the hub shall have it, in a file that nobody else can read and that does not stay.
filled() {
    umask 077
    content=$(mktemp --suffix .json)
    trap 'rm -f "$content"' EXIT
    for variable in REGISTRY_OWN_USERNAME REGISTRY_OWN_PASSWORD REGISTRY_PLANT_USERNAME REGISTRY_PLANT_PASSWORD; do
        [ -n "${!variable:-}" ] || die "$variable is not set" 'the first lines of this script tell what it is for' 2
        export "${variable?}"
    done
    jq '(.. | objects | select(has("registryCredentials")).registryCredentials["own"] | objects)
            |= . + {username: env.REGISTRY_OWN_USERNAME, password: env.REGISTRY_OWN_PASSWORD} |
        (.. | objects | select(has("registryCredentials")).registryCredentials["plant"] | objects)
            |= . + {username: env.REGISTRY_PLANT_USERNAME, password: env.REGISTRY_PLANT_PASSWORD}' "$manifest" >"$content"
}

# A deployment cannot be changed: a new one takes the place of the older ones. A device that has the same already changes nothing.
fleet() {
    extension
    filled
    id=$fleet-$(date -u +%Y%m%d-%H%M%S)
    say "making the deployment $id in $1"
    az iot edge deployment create --hub-name "$1" --deployment-id "$id" --content "$content" \
        --labels "{\"edgepress\": \"$fleet\"}" --target-condition "tags.edgepress='$fleet'" --priority "${2:-10}" --output none
    for old in $(az iot edge deployment list --hub-name "$1" --query "[?labels.edgepress=='$fleet'].id" --output tsv); do
        [ "$old" != "$id" ] || continue
        say "removing the older deployment $old"
        az iot edge deployment delete --hub-name "$1" --deployment-id "$old" --output none
    done
}

device() {
    extension
    filled
    say "giving the modules to $2"
    az iot edge set-modules --hub-name "$1" --device-id "$2" --content "$content" --output none
}

tag() {
    extension
    az iot hub device-twin update --hub-name "$1" --device-id "$2" --tags "{\"edgepress\": \"$fleet\"}" --output none
}

token_factory() {
    readable=(--repository line/pump content/read metadata/read --repository line/valve content/read metadata/read)
    if az acr scope-map show --registry factory --name "$fleet" --output none 2>/dev/null; then
        az acr scope-map update --registry factory --name "$fleet" "${readable[@]/#--repository/--add-repository}" --output none
    else
        az acr scope-map create --registry factory --name "$fleet" "${readable[@]}" --output none
    fi
    az acr token show --registry factory --name "$fleet" --output none 2>/dev/null ||
        az acr token create --registry factory --name "$fleet" --scope-map "$fleet" --no-passwords true --output none
    say 'a new password, for a year; the one before counts no longer'
    password=$(az acr token credential generate --registry factory --name "$fleet" --password1 --expiration-in-days 365 \
        --query 'passwords[0].value' --output tsv)
    printf "export REGISTRY_OWN_USERNAME='%s' REGISTRY_OWN_PASSWORD='%s'\n" "$fleet" "$password"
}

case ${1:-}:$#:${2:-} in
    fleet:2:* | fleet:3:*) fleet "$2" "${3:-}" ;;
    device:3:*) device "$2" "$3" ;;
    tag:3:*) tag "$2" "$3" ;;
    token:2:factory) token_factory ;;
    *) die 'what shall be done?' 'the first lines of this script tell' 2 ;;
esac
say 'done'
