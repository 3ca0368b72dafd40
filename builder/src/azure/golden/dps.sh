#!/usr/bin/env bash
# Makes DPS know the devices of factory, and puts a device's certificate into the vault. Written by edgepress azure.
#
#   ./dps.sh group RESOURCE_GROUP DPS CA.pem                 an enrolment group: whatever this authority signs
#   ./dps.sh vault RESOURCE_GROUP LOCATION [OBJECT_ID]       the vault factory-keys, and you, or whoever else, may fill it
#   ./dps.sh device VM CERTIFICATE.pem KEY.pem               a device's secret in it; the VM may not exist yet
#   ./dps.sh registry REGISTRATION_ID <PASSWORD              the password that it logs in to the registry with, from standard input
#
# Each may be run again. Needs the Azure CLI, logged in (az login); its extension azure-iot is installed where it is missing.
set -euo pipefail

vault='factory-keys'
enrolment='factory'
say() { printf 'dps: %s\n' "$1" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf ' hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

for tool in az openssl; do
    command -v "$tool" >/dev/null || die "$tool is not installed" 'README.md says where to get it' 2
done
account=$(az account show --query name --output tsv 2>/dev/null) || die 'nobody is logged in' 'az login' 2
say "subscription: $account"

# The authority that signs the devices' certificates: one group for all of them, now and later.
group() {
    [ -f "$3" ] || die "$3 is not there" 'name the certificate of the authority, in PEM' 2
    grep -q 'PRIVATE KEY' "$3" && die "$3 holds a private key" 'DPS needs the certificate alone' 2
    subject=$(openssl x509 -in "$3" -noout -subject_hash) || die "$3 is no certificate" 'PEM is asked for' 2
    issuer=$(openssl x509 -in "$3" -noout -issuer_hash)
    az extension show --name azure-iot --output none 2>/dev/null || az extension add --name azure-iot --output none
    scope=$(az iot dps show --resource-group "$1" --name "$2" --query properties.idScope --output tsv)
    say "ID scope of $2: $scope"
    [ "$scope" = '0ne00123456' ] || die "the image was made for the ID scope 0ne00123456" \
        "build it with --set provisioning.id_scope=$scope"
    if az iot dps enrollment-group show --resource-group "$1" --dps-name "$2" --enrollment-id "$enrolment" \
        --output none 2>/dev/null; then
        say "$2 has the enrolment group $enrolment already, and its authority stays; another one: az iot dps enrollment-group update"
        tag=$(az iot dps enrollment-group show --resource-group "$1" --dps-name "$2" --enrollment-id "$enrolment" \
            --query initialTwin.tags.edgepress --output tsv)
        [ "$tag" = 'factory' ] || say "it gives devices no tag edgepress = factory; beside those that it gives: \
az iot dps enrollment-group update --resource-group $1 --dps-name $2 --enrollment-id $enrolment --initial-twin-tags '{\"edgepress\": \"factory\"}'"
        return
    fi
    # DPS believes a chain that ends at a verified certificate: it or one above it must be uploaded as such. Its name is shorter.
    authority=${enrolment:0:64}
    if ! az iot dps certificate show --resource-group "$1" --dps-name "$2" --name "$authority" --output none 2>/dev/null; then
        say "uploading $3 to $2 as $authority"
        az iot dps certificate create --resource-group "$1" --dps-name "$2" --name "$authority" --path "$3" \
            --verified true --output none
    fi
    # A root is named; an intermediate is given itself.
    by=(--certificate-path "$3")
    [ "$issuer" != "$subject" ] || by=(--root-ca-name "$authority")
    say "making the enrolment group $enrolment in $2"
    az iot dps enrollment-group create --resource-group "$1" --dps-name "$2" --enrollment-id "$enrolment" \
        "${by[@]}" --edge-enabled true --initial-twin-tags '{"edgepress": "factory"}' --output none
}

# Who is logged in: a person, or a service principal. The name of a managed identity tells nothing, so its id must be stated.
look_for_me() {
    stated='state the object id: ./dps.sh vault RESOURCE_GROUP LOCATION OBJECT_ID'
    case $(az account show --query user.type --output tsv) in
        user)
            me=$(az ad signed-in-user show --query id --output tsv) || die 'you cannot be looked up' "$stated"
            kind=User ;;
        servicePrincipal)
            application=$(az account show --query user.name --output tsv)
            me=$(az ad sp show --id "$application" --query id --output tsv) ||
                die "the service principal $application cannot be looked up" "$stated"
            kind=ServicePrincipal ;;
        *) die 'it cannot be told who is logged in' "$stated" ;;
    esac
}

# Permissions go by roles: the template gives each VM the one to read its own secret.
vault() {
    if az keyvault show --resource-group "$1" --name "$vault" --output none 2>/dev/null; then
        say "the vault $vault is there"
    else
        say "making the vault $vault"
        az keyvault create --resource-group "$1" --location "$2" --name "$vault" --enable-rbac-authorization true \
            --output none
    fi
    scope=$(az keyvault show --resource-group "$1" --name "$vault" --query id --output tsv)
    roles=$(az keyvault show --resource-group "$1" --name "$vault" --query properties.enableRbacAuthorization --output tsv)
    [ "$roles" = true ] || die "the permissions of $vault do not go by roles (RBAC)" \
        "az keyvault update --name $vault --enable-rbac-authorization true; its access policies count no longer then"
    if [ -n "${3:-}" ]; then
        who=(--assignee-object-id "$3")
    else
        look_for_me
        who=(--assignee-object-id "$me" --assignee-principal-type "$kind")
    fi
    say "letting ${3:-you} store secrets there, which may take minutes to count"
    az role assignment create --role 'Key Vault Secrets Officer' --scope "$scope" "${who[@]}" --output none
}

# A role that was just given counts after minutes. Until then, and for ten of them, what is forbidden is tried again.
patiently() {
    for _ in $(seq 40); do
        if said=$("$@" 2>&1); then return 0; fi
        case $said in
            *ForbiddenByFirewall*) break ;;
            *Forbidden*) say 'the vault does not let you store secrets; a new role takes minutes to count: trying again' ;;
            *) break ;;
        esac
        sleep 15
    done
    printf '%s\n' "$said" >&2
    die "the secret was not stored in $vault" './dps.sh vault RESOURCE_GROUP LOCATION gives you the role'
}

# named TEMPLATE REGISTRATION_ID: the name of a secret, in which what is no letter or digit is a hyphen.
named() {
    printf '%s' "$1" | sed "s/{{ *registration_id *}}/$2/" | tr -c 'A-Za-z0-9-' '-'
}

# A secret of one line, which no argument and no other user sees.
registry() {
    case $1 in '' | *[!A-Za-z0-9._:-]*) die "$1 is no registration id" 'letters, digits and ._:-' 2 ;; esac
    IFS= read -r password || [ -n "$password" ] || die 'no password came on standard input' './dps.sh registry ID <password.txt' 2
    umask 077
    content=$(mktemp)
    trap 'rm -f "$content"' EXIT
    printf '%s' "$password" >"$content"
    name=$(named 'registry' "$1")
    say "storing the secret $name"
    patiently az keyvault secret set --vault-name "$vault" --name "$name" --content-type text/plain --file "$content" \
        --encoding utf-8 --output none
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
    name=$(named 'edge-{{ registration_id }}' "$registration_id")
    say "storing the secret $name"
    patiently az keyvault secret set --vault-name "$vault" --name "$name" --content-type application/x-pem-file \
        --file "$both" --encoding utf-8 --output none
}

case ${1:-}:$# in
    group:4) group "$2" "$3" "$4" ;;
    vault:3 | vault:4) vault "$2" "$3" "${4:-}" ;;
    device:4) device "$2" "$3" "$4" ;;
    registry:2) registry "$2" ;;
    *) die 'what shall be done?' 'the first lines of this script tell' 2 ;;
esac
say 'done'
