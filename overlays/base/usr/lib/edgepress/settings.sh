# shellcheck shell=sh
# Where this device's certificate comes from (source.toml: the image's own, or the identity's instead), and how the
# device is called: templates are filled in with what the machine can find out about itself.
# shellcheck disable=SC2034,SC2154 # variables are shared with the script that sources this

# Lines of source.toml: far above any that one needs.
MOST_LINES=1000

# read_settings FILE: sets S_* from lines `key = "value"`. Nothing of it is ever run.
read_settings() {
    S_from=partition S_registration_id='' S_hostname='' S_url='' S_enrol=runtime S_auto_renew='' S_vault=''
    S_name='{{ registration_id }}' S_version='' S_token=managed-identity S_client_id='' S_tenant=''
    S_authority=https://login.microsoftonline.com S_registry_address='' S_registry_username='' S_registry_secret=''
    number=0
    # Blanks around key and value do not count.
    sed 's/^[ \t]*//; s/[ \t]*$//; s/[ \t]*=[ \t]*/=/' "$1" >"$RUN/settings" || return 1
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        [ "$number" -le "$MOST_LINES" ] || complain "source.toml has more than $MOST_LINES lines" || return 1
        case $line in '' | '#'*) continue ;; esac
        value=${line#*=}
        case $value in '"'*'"') value=${value#\"} value=${value%\"} ;; esac
        case $value in
            *[!A-Za-z0-9\ ._:/?=\&%~+,@{}-]*)
                complain "source.toml, line $number: the value has a character that it cannot have" || return 1 ;;
        esac
        case $line in
            from=*) S_from=$value ;;
            registration_id=*) S_registration_id=$value ;;
            hostname=*) S_hostname=$value ;;
            url=*) S_url=${value%/} ;;
            enrol=*) S_enrol=$value ;;
            auto_renew=*) S_auto_renew=$value ;;
            vault=*) S_vault=${value%/} ;;
            name=*) S_name=$value ;;
            version=*) S_version=$value ;;
            token=*) S_token=$value ;;
            client_id=*) S_client_id=$value ;;
            tenant=*) S_tenant=$value ;;
            authority=*) S_authority=${value%/} ;;
            registry_address=*) S_registry_address=$value ;;
            registry_username=*) S_registry_username=$value ;;
            registry_secret=*) S_registry_secret=$value ;;
            ca=*) ;; # the authorities stand beside it, as source-ca.pem
            *) complain "source.toml, line $number: unknown key \"${line%%=*}\"" || return 1 ;;
        esac
    done <"$RUN/settings"
}

# The identity's source if it brings one and may, else the image's. Sets S_* and SOURCE_CA (empty: the system's
# authorities).
choose_source() {
    SOURCE_CA=
    if [ "$EP_OVERRIDES" = yes ] && fat_has source.toml; then
        rm -f "$1/source.toml"
        take_text source.toml "$1" || return 1
        not_refused && read_settings "$1/source.toml" || return 1
        [ ! -s "$1/source-ca.pem" ] || SOURCE_CA=$1/source-ca.pem
    else
        if [ -e "$EP_LIB/source.toml" ]; then read_settings "$EP_LIB/source.toml"; else read_settings /dev/null; fi ||
            return 1
        [ ! -s "$EP_LIB/source-ca.pem" ] || SOURCE_CA=$EP_LIB/source-ca.pem
    fi
    case $S_from:$S_enrol:$S_token in
        partition:* | https:* | tpm:* | symmetric-key:* | est:runtime:* | est:first-boot:*) ;;
        key-vault:*:managed-identity | key-vault:*:arc | key-vault:*:client-certificate) ;;
        est:*) complain "source.toml: enrol = \"$S_enrol\" is neither \"runtime\" nor \"first-boot\"" || return 1 ;;
        key-vault:*) complain "source.toml: token = \"$S_token\" is unknown" || return 1 ;;
        *) complain "source.toml: there is no source \"$S_from\"" || return 1 ;;
    esac
    for address in "$S_url" "$S_vault" "$S_authority"; do
        case $address in
            '' | https://[A-Za-z0-9]*) ;;
            *) complain "source.toml: \"$address\" is no https:// address" || return 1 ;;
        esac
    done
    case $S_from:$S_url:$S_vault in
        est:: | https::) complain "source.toml: the url is missing" || return 1 ;;
        key-vault:*:) complain "source.toml: the vault is missing" || return 1 ;;
    esac
    case ${S_registry_address:+a}${S_registry_username:+u}${S_registry_secret:+s} in
        '' | aus) ;;
        *) complain "source.toml: of registry_address, registry_username and registry_secret one is missing" || return 1 ;;
    esac
}

# fill TEMPLATE: sets $filled. Fails with $unknown and $hopeless (yes: asking again does not help). What the machine tells
# may hold any sign; filled in are only those that an address, too, can hold.
fill() {
    filled='' rest=$1
    while :; do
        case $rest in *'{{'*'}}'*) ;; *) break ;; esac
        filled=$filled${rest%%'{{'*}
        word=${rest#*'{{'}
        rest=${word#*'}}'}
        word=$(printf '%s' "${word%%'}}'*}" | tr -d ' ')
        hopeless=yes
        case $word in
            registration_id) value=$registration ;;
            serial | mac | vm_name | vm_id) "$word" || return 1 ;;
            *) unknown="source.toml: nothing is known as {{ $word }}"; return 1 ;;
        esac
        filled=$filled$(plain_value "$value")
    done
    filled=$filled$rest
}

# What of a value every name can hold. Where that is not all of it, a digest of the whole follows: A/1 and A-1 are two machines.
plain_value() {
    plain=$(printf '%s' "$1" | tr -cd 'A-Za-z0-9._:-')
    if [ "$plain" = "$1" ]; then printf '%s' "$1"; else with_digest "$plain" "$1"; fi
}

# with_digest NAME WHOLE
with_digest() {
    printf '%s%.12s' "$1${1:+-}" "$(printf '%s' "$2" | sha256sum)"
}

# fill_in TEMPLATE WHAT [FILE]: the same, and says why there is none, and which file names the device then.
fill_in() {
    fill "$1" && return 0
    if [ -n "$hopeless" ]; then
        refused "no $2: $unknown${3:+; put a file $3 into edgepress/ on the FAT partition}"
    else
        retry_later "$unknown"
    fi
    return 1
}

# Most characters of a registration id: a certificate's common name holds 64 (RFC 5280), DPS itself takes 128.
id_room() {
    case $S_from in tpm | symmetric-key) echo 128 ;; *) echo 64 ;; esac
}

# May it be a registration id? Not what DPS refuses at the end, nor what programs take for an option, a hidden file or a folder
# at the beginning.
is_id() {
    case $1 in '' | *[!A-Za-z0-9._:-]* | -* | .* | *[._:]) return 1 ;; esac
}

# The nearest registration id that DPS accepts: the same, where it is one, else with a digest of it. What is too long is not cut:
# what tells two devices apart may stand at the end.
clean_id() {
    ! is_id "$1" || { printf '%s' "$1"; return; }
    name=$(printf '%s' "$1" | tr -cd 'A-Za-z0-9._:-')
    while :; do
        case $name in -* | .*) name=${name#?} ;; *. | *_ | *:) name=${name%?} ;; *) break ;; esac
    done
    [ -z "$name" ] || with_digest "$name" "$1"
}

# Sets $registration where the certificate does not tell it: the identity's, or what the template comes to.
name_device() {
    [ -z "$registration" ] || return 0
    only_line "$STAGE/registration-id" 2>"$RUN/verdict" || { refused "$(cat "$RUN/verdict")"; return 1; }
    if [ -n "$line" ]; then
        is_id "$line" || { refused "registration id \"$line\" is none that DPS accepts"; return 1; }
        id_fits "$line" || return 1
        registration=$line
        return 0
    fi
    [ -n "$S_registration_id" ] || { waiting "no registration-id in edgepress/ on the FAT partition"; return 1; }
    case $S_registration_id in *vm_*) network_ready || return 1 ;; esac
    fill_in "$S_registration_id" "registration id" registration-id || return 1
    name=$(clean_id "$filled")
    [ -n "$name" ] || { refused "no registration id: nothing is left of \"$filled\""; return 1; }
    id_fits "$name" || return 1
    registration=$name
}

id_fits() {
    room=$(id_room)
    [ "${#1}" -gt "$room" ] || return 0
    refused "the registration id has ${#1} characters, and at most $room are possible here: \"$1\""
    return 1
}
