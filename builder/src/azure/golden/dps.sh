#!/usr/bin/env bash
# Makes DPS know the devices of factory, and puts a device's certificate into the vault. Written by edgepress azure.
#
#   ./dps.sh group RESOURCE_GROUP DPS CA.pem                 an enrolment group: whatever this authority signs
#   ./dps.sh vault RESOURCE_GROUP LOCATION                   the vault factory-keys
#   ./dps.sh device VM CERTIFICATE.pem KEY.pem               a device's secret in it; the VM may not exist yet
#
# Needs the Azure CLI, logged in (az login); its extension azure-iot is installed where it is missing.
set -euo pipefail

vault='factory-keys'
say() { printf 'dps: %s\n' "$1" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf ' hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

command -v az >/dev/null || die 'az is not installed' 'README.md says where to get it' 2
account=$(az account show --query name --output tsv 2>/dev/null) || die 'nobody is logged in' 'az login' 2
say "subscription: $account"

# The authority that signs the devices' certificates: one group for all of them, now and later.
group() {
    [ -f "$3" ] || die "$3 is not there" 'name the certificate of the authority, in PEM' 2
    grep -q 'PRIVATE KEY' "$3" && die "$3 holds a private key" 'DPS needs the certificate alone' 2
    az extension show --name azure-iot --output none 2>/dev/null || az extension add --name azure-iot --output none
    scope=$(az iot dps show --resource-group "$1" --name "$2" --query properties.idScope --output tsv)
    say "ID scope of $2: $scope"
    [ "$scope" = '0ne00123456' ] || die "the image was made for the ID scope 0ne00123456" \
        "build it with --set provisioning.id_scope=$scope"
    say "making the enrolment group edgepress in $2"
    az iot dps enrollment-group create --resource-group "$1" --dps-name "$2" --enrollment-id edgepress \
        --certificate-path "$3" --edge-enabled true --output none
}

# Permissions go by roles: the template gives each VM the one to read secrets.
vault() {
    say "making the vault $vault"
    az keyvault create --resource-group "$1" --location "$2" --name "$vault" --enable-rbac-authorization true \
        --output none
    scope=$(az keyvault show --name "$vault" --query id --output tsv)
    me=$(az ad signed-in-user show --query id --output tsv)
    say 'letting you store secrets there, which may take minutes to count'
    az role assignment create --role 'Key Vault Secrets Officer' --scope "$scope" --assignee-object-id "$me" \
        --assignee-principal-type User --output none
}

# Key and certificates in one PEM, under the name that first boot asks for.
device() {
    for file in "$2" "$3"; do [ -f "$file" ] || die "$file is not there" '' 2; done
    registration_id=$(openssl x509 -in "$2" -noout -subject -nameopt multiline | sed -n 's/^ *commonName *= //p')
    case $registration_id in
        '' | *[!A-Za-z0-9._:-]*) die "the common name of $2 is no registration id" 'letters, digits and ._:-' 2 ;;
    esac
    [ "$registration_id" = "$1" ] || die "$2 is for $registration_id, and the VM is called $1" \
        "its registration id is its name: a certificate for $1" 2
    # Both in one file, which nobody else can read and which does not stay.
    umask 077
    both=$(mktemp)
    trap 'rm -f "$both"' EXIT
    cat "$3" "$2" >"$both"
    # In a secret's name, what is no letter or digit is a hyphen.
    name=$(printf '%s' 'edge-{{ registration_id }}' | sed "s/{{ *registration_id *}}/$registration_id/" | tr -c 'A-Za-z0-9-' '-')
    say "storing the secret $name"
    az keyvault secret set --vault-name "$vault" --name "$name" --content-type application/x-pem-file \
        --file "$both" --encoding utf-8 --output none
}

case ${1:-}:$# in
    group:4) group "$2" "$3" "$4" ;;
    vault:3) vault "$2" "$3" ;;
    device:4) device "$2" "$3" "$4" ;;
    *) die 'what shall be done?' 'the first lines of this script tell' 2 ;;
esac
say 'done'
