"""The kernel's fences, by system call: Landlock, seccomp, capabilities, a clone with its own PID namespace.

Landlock allows what is listed and nothing else; seccomp refuses what reaches beyond the process. Both need no
privilege once `no_new_privs` is set. Numbers are those of x86-64 and AArch64 Linux (`asm/unistd.h`).
"""

import ctypes
import os
import platform
import stat
import struct
from functools import cache
from pathlib import Path

MACHINE = platform.machine()
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000

_SYSCALLS: dict[str, tuple[int, int]] = {
    # name: (x86_64, aarch64); -1 where the architecture has none
    "socket": (41, 198),
    "connect": (42, 203),
    "accept": (43, 202),
    "sendto": (44, 206),
    "bind": (49, 200),
    "listen": (50, 201),
    "socketpair": (53, 199),
    "ptrace": (101, 117),
    "personality": (135, 92),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "reboot": (169, 142),
    "init_module": (175, 105),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "unshare": (272, 97),
    "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "finit_module": (313, 273),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "setpriority": (141, 140),
    "sched_setscheduler": (144, 119),
    "fsopen": (430, 430),
    "move_mount": (429, 429),
}
_WITHOUT_PROCESSES: dict[str, tuple[int, int]] = {
    # a child without a PID namespace of its own shares its user with the forkserver: it must not signal it
    "fork": (57, -1),
    "vfork": (58, -1),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
}
_PRLIMIT = (302, 261)
_CLONE, _CLONE3 = (56, 220), (435, 435)
_CAPSET, _CLOSE_RANGE = (126, 91), (436, 436)
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_CLONE_THREAD = 0x00010000
_SIGCHLD = 17
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_SET_DUMPABLE, _PR_SET_PDEATHSIG = 38, 22, 4, 1
_SECCOMP_MODE_FILTER = 2
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAGAIN = 1, 38, 11

_ALL_TCP, _ALL_SCOPES = 0b11, 0b11
READ = 0b1100
"""Landlock rights: read files and list folders."""
READ_EXECUTE = 0b1101
"""The same, and execute."""

_libc = ctypes.CDLL(None, use_errno=True)
# the forking call keeps the interpreter's lock: the child's only thread must hold it
_libc_locked = ctypes.PyDLL(None, use_errno=True)


def _index() -> int:
    try:
        return ("x86_64", "aarch64").index(MACHINE)
    except ValueError:
        raise OSError(_ENOSYS, f"no sandbox for machine {MACHINE}") from None


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def landlock_abi() -> int:
    """Version of Landlock, 0 where the kernel has none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def _rights(abi: int) -> int:
    """All file rights that a version knows; every one that is handled and not granted is refused."""
    return {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}.get(abi, (1 << 16) - 1)


def _ruleset_attributes(abi: int, handled: int) -> bytes:
    """Write what a ruleset governs, as far as a version knows it: files, TCP, signals and abstract sockets.

    No rule will grant TCP, so none is left from version 4 on; from version 6 on a process reaches only those that are
    under the same ruleset by signals and abstract sockets.
    """
    fields = [handled]
    if abi >= 4:
        fields.append(_ALL_TCP)
    if abi >= 6:
        fields.append(_ALL_SCOPES)
    return struct.pack(f"<{len(fields)}Q", *fields)


def file_rules(abi: int, readable: list[tuple[str, int]], writable: str) -> int:
    """Make a Landlock ruleset: reading the listed trees and everything in one folder. Gives its descriptor."""
    handled = _rights(abi)
    attributes = _ruleset_attributes(abi, handled)
    ruleset = _checked(
        _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0), "landlock_create_ruleset"
    )
    for path, rights in [*readable, (writable, handled)]:
        try:
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except (FileNotFoundError, PermissionError):
            continue  # what is not there, or not ours to see, needs no leave
        try:
            folder = stat.S_ISDIR(os.fstat(handle).st_mode)
            allowed = rights & handled if folder else rights & handled & 0b111
            rule = struct.pack("<Qi", allowed, handle)
            _checked(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock_add_rule {path}")
        finally:
            os.close(handle)
    return ruleset


def restrict_files(ruleset: int) -> None:
    """Put this process, and all that it starts, under a ruleset."""
    _checked(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")


@cache
def _filter(allow_processes: bool) -> bytes:
    """Assemble the seccomp program (classic BPF over `struct seccomp_data`)."""
    index = _index()

    def statement(code: int, k: int, jt: int = 0, jf: int = 0) -> bytes:
        return struct.pack("<HBBI", code, jt, jf, k)

    load, jump_equal, jump_set, ret = 0x20, 0x15, 0x45, 0x06
    program = [
        statement(load, 4),
        statement(jump_equal, _AUDIT_ARCH[MACHINE], 1, 0),
        statement(ret, _KILL),
        statement(load, 0),
    ]
    if MACHINE == "x86_64":
        program += [statement(jump_set, _X32_BIT, 0, 1), statement(ret, _KILL)]
    refused = [numbers[index] for numbers in _SYSCALLS.values()]
    if not allow_processes:
        refused += [numbers[index] for numbers in _WITHOUT_PROCESSES.values() if numbers[index] >= 0]
    for number in refused:
        program += [statement(jump_equal, number, 0, 1), statement(ret, _ERRNO | _EPERM)]
    # clone3 hides its flags behind a pointer: without it the C library falls back to clone
    program += [statement(jump_equal, _CLONE3[index], 0, 1), statement(ret, _ERRNO | _ENOSYS)]
    # limits of one's own, and nobody else's
    program += [
        statement(jump_equal, _PRLIMIT[index], 0, 4),
        statement(load, 16),
        statement(jump_equal, 0, 0, 1),
        statement(ret, _ALLOW),
        statement(ret, _ERRNO | _EPERM),
    ]
    if not allow_processes:
        program += [
            statement(jump_equal, _CLONE[index], 0, 3),
            statement(load, 16),
            statement(jump_set, _CLONE_THREAD, 1, 0),
            statement(ret, _ERRNO | _EAGAIN),
        ]
    program.append(statement(ret, _ALLOW))
    return b"".join(program)


def prepare_system_call_filters() -> None:
    """Assemble the filters once, so that no child has to."""
    for allow_processes in (False, True):
        _filter(allow_processes)


def restrict_system_calls(*, allow_processes: bool) -> None:
    """Refuse what reaches beyond the process: sockets, tracing, mounts, namespaces, keys; new processes if so asked."""
    code = _filter(allow_processes)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
    _checked(_libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def no_new_privileges() -> None:
    """Let no later exec gain anything; Landlock and seccomp ask for it."""
    _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "pdeathsig")


def drop_capabilities() -> None:
    """Give up every capability, for good."""
    header = struct.pack("<Ii", 0x20080522, 0)
    _checked(_libc.syscall(_CAPSET[_index()], header, bytes(24)), "capset")


def close_from(first: int) -> None:
    """Close all descriptors from one on."""
    _checked(_libc.syscall(_CLOSE_RANGE[_index()], first, 0xFFFFFFFF, 0), "close_range")


def enter_namespaces() -> bool:
    """Enter a network and an IPC namespace of one's own, by way of a user namespace where that needs no privilege.

    False where the kernel or its admin does not allow it.
    """
    if os.getuid() == 0 and _libc.unshare(CLONE_NEWNET | CLONE_NEWIPC) == 0:
        return True
    uid, gid = os.getuid(), os.getgid()
    # changing the user has made /proc/self unwritable, which the maps need
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC) != 0:
        return False
    try:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            Path("/proc/self", name).write_text(text, encoding="utf-8")
    except OSError:
        return False
    return True


def become(user: int) -> bool:
    """Become another user, for good; False where that is not allowed."""
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    except OSError:
        return False
    return True


def fork_process(*, own_pids: bool) -> int:
    """Fork; with `own_pids` the child is the first of a PID namespace, and killing it kills all that it started."""
    if not own_pids:
        return os.fork()
    flags = CLONE_NEWPID | _SIGCHLD
    pid = _checked(_libc_locked.syscall(_CLONE[_index()], flags, 0, 0, 0, 0), "clone")
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
    return pid
