//! The native helper: what the kernel starts, in place of an emulator, for each program of a foreign architecture.
//!
//! binfmt_misc calls it, with the flags `PF`, as `helper PATH ARGV0 ARGUMENT...` inside the tree that is being built.
//! Where the native tools have a program at the same path, with links followed, that one is started; else the static
//! qemu-user with the program itself. The path is looked at anew each time, so that packages may replace their files.
//!
//! A build starts tens of thousands of programs, so this must cost next to nothing: no C library, no allocation, three
//! system calls. `build.rs` makes it a static program of about a kilobyte.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

/// Where the build shows the native tools and qemu-user in the tree; `crate::foreign` has the same paths.
const TOOLS: &[u8] = b"/.edgepress-build/native";
const QEMU: &core::ffi::CStr = c"/.edgepress-build/qemu";

/// `PATH_MAX` of Linux, with its NUL.
const PATH_MAX: usize = 4096;

/// The exit status of a shell for a program that cannot be started.
const CANNOT_START: usize = 126;

/// Numbers of system calls: the kernel's `arch/x86/entry/syscalls/syscall_64.tbl` and
/// `include/uapi/asm-generic/unistd.h`.
#[cfg(target_arch = "x86_64")]
mod number {
    pub const OPENAT: usize = 257;
    pub const READLINKAT: usize = 267;
    pub const EXECVE: usize = 59;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const OPENAT: usize = 56;
    pub const READLINKAT: usize = 78;
    pub const EXECVE: usize = 221;
    pub const EXIT_GROUP: usize = 94;
}

const AT_FDCWD: usize = -100_isize as usize;
const O_PATH_CLOEXEC: usize = 0o10_000_000 | 0o2_000_000;

// The kernel enters with the stack at argc, argv, NULL, envp, NULL (System V ABI, "Process Initialization").
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main
);
#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {main}", "brk #1", main = sym main);

/// # Safety
/// The arguments must be what the call with this number takes.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers rcx and r11 only; the caller vouches for the arguments.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    result
}

/// # Safety
/// The arguments must be what the call with this number takes.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, arguments: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the kernel clobbers x0 only; the caller vouches for the arguments.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") arguments[0] as isize => result,
            in("x1") arguments[1],
            in("x2") arguments[2],
            in("x3") arguments[3],
            options(nostack)
        );
    }
    result
}

/// # Safety
/// `stack` must point to what the kernel left for a new process.
unsafe extern "C" fn main(stack: *mut usize) -> ! {
    // SAFETY: argc words follow, then NULL, then the environment up to a NULL. PATH and ARGV0 are strings that the
    // kernel wrote. The vector for qemu starts where argc was and is one longer than ours: it ends where ours ends.
    unsafe {
        let argc = *stack;
        if argc < 3 {
            exit();
        }
        let (path, argv0) = (*stack.add(2), *stack.add(3));
        let environment = stack.add(argc + 2) as usize;
        native(path, stack.add(3) as usize, environment);
        stack.write(QEMU.as_ptr() as usize);
        stack.add(1).write(c"-0".as_ptr() as usize);
        stack.add(2).write(argv0);
        stack.add(3).write(path);
        call(number::EXECVE, [QEMU.as_ptr() as usize, stack as usize, environment, 0]);
        exit()
    }
}

/// Starts the native program at the same place, if there is one; returns if there is none.
///
/// # Safety
/// `path` must be a C string, the others vectors of C strings that end with NULL.
unsafe fn native(path: usize, arguments: usize, environment: usize) {
    let mut link = *b"/proc/self/fd/\0\0\0\0\0\0\0\0\0\0\0";
    let mut place = [0_u8; TOOLS.len() + PATH_MAX + 1];
    let (head, tail) = place.split_at_mut(TOOLS.len());
    head.copy_from_slice(TOOLS);
    // SAFETY: all strings end with NUL, and readlinkat writes at most PATH_MAX bytes, which leaves a NUL at the end.
    unsafe {
        // The kernel resolves links and relative paths; /proc tells what it came to.
        let fd = call(number::OPENAT, [AT_FDCWD, path, O_PATH_CLOEXEC, 0]);
        let Ok(fd) = usize::try_from(fd) else { return };
        write_decimal(fd, &mut link[14..24]);
        let length = call(
            number::READLINKAT,
            [AT_FDCWD, link.as_ptr() as usize, tail.as_mut_ptr() as usize, PATH_MAX],
        );
        if length > 0 {
            call(number::EXECVE, [place.as_ptr() as usize, arguments, environment, 0]);
        }
    }
}

fn write_decimal(mut number: usize, out: &mut [u8]) {
    let mut digits = [0_u8; 10];
    let mut count = 0;
    while count < digits.len() && (number > 0 || count == 0) {
        digits[count] = b'0' + (number % 10) as u8;
        number /= 10;
        count += 1;
    }
    for (place, digit) in out.iter_mut().zip(digits[..count].iter().rev()) {
        *place = *digit;
    }
}

fn exit() -> ! {
    loop {
        // SAFETY: the call takes a status and does not return.
        unsafe { call(number::EXIT_GROUP, [CANNOT_START, 0, 0, 0]) };
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit()
}

// Without a C library the compiler's own calls have nobody to answer them.

/// # Safety
/// As C's `memcpy`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: the caller vouches for both ranges. Volatile, or the loop becomes a call of itself.
        unsafe { to.add(at).write_volatile(*from.add(at)) };
    }
    to
}

/// # Safety
/// As C's `memset`.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    for at in 0..length {
        // SAFETY: as above.
        unsafe { to.add(at).write_volatile(byte as u8) };
    }
    to
}
