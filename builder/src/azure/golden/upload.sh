#!/usr/bin/env bash
# Uploads factory as a managed disk. Written by edgepress azure.
#
#   ./upload.sh RESOURCE_GROUP LOCATION [FILE.vhd]
#
# Run again after an interruption it goes on: a disk that is whole is left alone, one that waits for its bytes gets them.
# Needs Linux (WSL will do), the Azure CLI, logged in (az login), and azcopy.
set -euo pipefail

disk='factory-2026-1122-732-e1200af4'
vhd='/out/factory-x86_64/factory.vhd'
size=1258291712 # 1258291200 bytes of disk and a footer of 512
sha256=e1200af476f67398dde7575bf9966bdccaf140ce444569ff78c485a43f48957a

say() { printf 'upload: %s\n' "$1" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    [ -z "${2:-}" ] || printf ' hint: %s\n' "$2" >&2
    exit "${3:-1}"
}

[ $# -ge 2 ] || die 'RESOURCE_GROUP and LOCATION are missing' './upload.sh edge westeurope' 2
group=$1 location=$2 vhd=${3:-$vhd}
[ -n "$vhd" ] || die 'no VHD is named' 'edgepress build makes one; name it as the third argument' 2
for tool in az azcopy sha256sum; do
    command -v "$tool" >/dev/null || die "$tool is not installed" 'README.md says where to get it' 2
done
[ -f "$vhd" ] || die "$vhd is not there" 'name the VHD as the third argument' 2
length=$(stat -c %s "$vhd")
[ -n "$size" ] || size=$length
[ "$length" = "$size" ] || die "$vhd has $length bytes, expected $size" 'write these files anew: edgepress azure' 2
[ $(((size - 512) % 1048576)) -eq 0 ] || die "$vhd is no whole number of MiB and a footer" 'build it anew' 2

say "looking at $vhd"
digest=$(sha256sum <"$vhd")
digest=${digest%% *}
[ -z "$sha256" ] || [ "$digest" = "$sha256" ] || die "$vhd is damaged: SHA-256 $digest, expected $sha256" 'build it anew'

account=$(az account show --query name --output tsv 2>/dev/null) || die 'nobody is logged in' 'az login' 2
say "subscription: $account"
if [ "$(az group exists --name "$group")" != true ]; then
    say "making the resource group $group in $location"
    az group create --name "$group" --location "$location" --output none
fi

# Empty: there is no such disk.
ask() {
    az disk list --resource-group "$group" --query "[?name=='$disk'].$1 | [0]" --output tsv | sed 's/^None$//'
}

state=$(ask diskState)
if [ -n "$state" ] && [ "$(ask 'tags."edgepress-sha256"')" != "$digest" ]; then
    die "the disk $disk holds, or waits for, another image" \
        "az disk delete --resource-group $group --name $disk"
fi
case $state in
    Unattached | Reserved | Attached)
        if [ "$(ask 'tags."edgepress-uploaded"')" = yes ]; then
            say "$disk is uploaded already"
            exit 0
        fi
        die "the disk $disk is there, but not whole" "az disk delete --resource-group $group --name $disk" ;;
    '')
        say "making the disk $disk for $size bytes"
        az disk create --resource-group "$group" --location "$location" --name "$disk" --upload-type Upload \
            --upload-size-bytes "$size" --os-type Linux --hyper-v-generation V2 --architecture x64 \
            --sku Standard_LRS --tags "edgepress-sha256=$digest" --output none ;;
    ReadyToUpload | ActiveUpload) say "the disk $disk waits for its bytes" ;;
    *) die "the disk $disk is in the state $state" 'look at it in the portal' ;;
esac

# Whoever has the address may write the disk: it is never printed, and holds for a day at most.
say 'asking for an address to write to'
address=$(az disk grant-access --resource-group "$group" --name "$disk" --access-level Write \
    --duration-in-seconds 86400 --query 'accessSAS || accessSas' --output tsv)
[ -n "$address" ] || die 'Azure gave no address' "az disk show --resource-group $group --name $disk"
say 'uploading; parts that are only zeros cost no time'
# Access is not taken back when this fails: the disk would then count as whole.
azcopy copy "$vhd" "$address" --blob-type PageBlob || die 'the upload failed' 'run this again'
say 'taking the address back'
az disk revoke-access --resource-group "$group" --name "$disk" --output none
az disk update --resource-group "$group" --name "$disk" --set 'tags.edgepress-uploaded=yes' --output none
say "done: $disk"
