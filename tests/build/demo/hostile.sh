#!/bin/sh
# The postinst of a hostile package: tries to get out of the build, and says of each way "held NAME" or "OUT NAME".
# CANARY, PORT and SOCKET are put in by the test: a folder of the host, a server and an abstract socket on it.
# shellcheck disable=SC2016 # what perl expands
set -u
canary='@CANARY@' port='@PORT@' socket='@SOCKET@'

# tries NAME COMMAND...: held where the command fails.
tries() {
    name=$1
    shift
    if "$@" >/dev/null 2>&1; then echo "OUT $name"; else echo "held $name"; fi
}
shell() { tries "$1" sh -c "$2"; }
# A system call by its number (x86_64, aarch64) and arguments; held where the answer is EPERM, not where the arguments are
# wrong. perl-base is essential.
call() {
    tries "$1" perl -e 'my ($n, @a) = map { /^-?\d+$/ ? $_ + 0 : $_ } @ARGV; $! = 0; exit(syscall($n, @a) == -1 && $! + 0 == 1 ? 1 : 0)' \
        "$(if [ "$(uname -m)" = x86_64 ]; then echo "$2"; else echo "$3"; fi)" "$4" "$5" "$6" "$7" "$8"
}

# The host's files
shell host-folder "ls '$canary'"
shell proc-root "ls /proc/1/root/"
shell proc-root-write "echo in >'/proc/1/root$canary/by-proc'"
shell proc-cwd "ls /proc/1/cwd/"
shell proc-files "readlink /proc/1/fd/0 || readlink /proc/1/fd/1"
shell proc-file-open "for f in 0 1 2 3 4 5 6 7 8 9; do (: <>/proc/1/fd/\$f) && exit 0; done; exit 1"
shell proc-exe "cat /proc/1/exe"
shell proc-memory "dd if=/proc/1/mem bs=1 count=1 skip=4194304"
tries second-chroot perl -e 'mkdir "/tmp/j"; chroot "/tmp/j" or exit 1; chdir ".." for 1..40; chroot "."; exit(-e $ARGV[0] ? 0 : 1)' "$canary"
shell other-mounts "grep -v ' / / \| /proc\| /dev\| /run\| /tmp\| /sys\| /.edgepress-build\| /usr/lib/' /proc/self/mountinfo"
shell block-device "mknod /tmp/disk b 254 0 && dd if=/tmp/disk count=1"
shell mount-tmpfs "mount -t tmpfs none /mnt"
shell mount-proc "mount -t proc none /mnt"
shell remount "mount -o remount,rw /proc/sys"
shell unmount "umount /proc/sys || umount -l /tmp"

# Other processes
shell environment "cat /proc/[0-9]*/environ | grep -a EP_CASE_SECRET || env | grep EP_CASE_SECRET"
shell processes "for p in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <\$p; echo; done | grep -E '(edgepress|inner)( |\$)' | grep -v confined-init"
shell signal-init "kill -9 1; kill -TERM 1; sleep 0.2; ! kill -0 1"
call ptrace-init 101 117 16 1 0 0 0
call process-memory 310 270 1 0 0 0 0
shell inherited-files "ls /proc/self/fd | grep -vx '[0-3]'"

# The terminal
shell terminal ": <>/dev/tty"
tries typing perl -e 'open(T, "<&", $_) and ioctl(T, 0x5412, my $c = "#") and exit 0 for (\*STDIN, \*STDOUT, \*STDERR); exit 1'
shell console "[ -c /dev/console ] || [ -c /dev/tty0 ] || [ -c /dev/tty1 ]"
printf '\033]0;owned\007\033[2Jheld escapes-are-shown-as-text\n'

# The kernel
shell core-pattern "echo '|/bin/false' >/proc/sys/kernel/core_pattern"
shell sysctl "echo 1 >/proc/sys/vm/drop_caches"
shell sysrq "echo h >/proc/sysrq-trigger"
shell kernel-memory "dd if=/proc/kcore bs=4096 count=1 2>/dev/null | grep -a ."
shell kernel-log "dmesg || cat /proc/kmsg | head -c 1 | grep ."
shell keys-listed "grep . /proc/keys"
call keyring-join 250 219 1 0 0 0 0
call keyring-add 248 217 user name x 1 -3
call bpf 321 280 0 0 0 0 0
call perf-events 298 241 0 0 -1 -1 0
call asynchronous 425 425 1 0 0 0 0
call page-faults 323 282 1 0 0 0 0
call reboot 169 142 -18751827 672274793 0 0 0
shell host-name "hostname evil"
shell user-namespace "unshare --user true"
shell mount-namespace "unshare --mount true"
shell pid-limit "echo 4000000 >/proc/sys/kernel/pid_max"
shell namespaces-again "echo 100 >/proc/sys/user/max_user_namespaces"
shell nice "nice -n -5 sh -c '[ \$(nice) -lt 0 ]'"

# The network
tries server perl -e 'use Socket; socket(S, PF_INET, SOCK_STREAM, 0); exit(connect(S, sockaddr_in($ARGV[0], inet_aton("127.0.0.1"))) ? 0 : 1)' "$port"
tries abstract-socket perl -e 'use Socket; socket(S, PF_UNIX, SOCK_STREAM, 0); exit(connect(S, pack("Sa*", AF_UNIX, "\0$ARGV[0]")) ? 0 : 1)' "$socket"
call hypervisor-socket 41 198 40 1 0 0 0
shell interfaces "ls /sys/class/net | grep -vx lo || grep -vE 'Inter|face|lo:' /proc/net/dev"

# What is stated, whatever the caller's is
[ "$(umask)" = 0022 ] && echo "held umask"
grep -q '^Max open files  *1024 ' /proc/self/limits && echo "held open-files"
grep -q '^NoNewPrivs:.*1' /proc/self/status && echo "held no-new-privileges"
grep -q '^CapBnd:.*00000000800400fb' /proc/self/status && echo "held capabilities"
[ "$(hostname)" = edge ] && [ -n "$(getent hosts localhost)" ] && [ -n "$(hostname --fqdn)" ] && echo "held own-name"
[ -z "${TZ:-}" ] && [ "${LC_ALL:-}" = C.UTF-8 ] && echo "held locale"
[ "$(id -u)" = 0 ] && echo "held root-inside"

echo "tried all"
exit 1
