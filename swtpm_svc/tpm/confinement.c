/*
 * What the unit cannot say: system calls that are for the process itself, and refused (EPERM) when they are for another one.
 *
 * All instances are one user, and one user's processes may signal each other. systemd's filter of system calls sees no
 * arguments (seccomp(2) could), and a PID namespace of the unit's own comes with systemd 257 only. So the daemon gives itself
 * a second filter, before it reads anything that somebody else has written. It is for good, and adds nothing to read(2),
 * write(2) and the like: the kernel knows for each number whether the filter looks at arguments at all.
 *
 * Ways to another process that are whole system calls are not here but in the unit (SystemCallFilter=).
 */

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <asm/sockios.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#elif defined(__powerpc64__) && defined(__LITTLE_ENDIAN__)
#define NATIVE AUDIT_ARCH_PPC64LE
#elif defined(__s390x__)
#define NATIVE AUDIT_ARCH_S390X
#elif defined(__riscv) && __riscv_xlen == 64
#define NATIVE AUDIT_ARCH_RISCV64
#elif defined(__i386__)
#define NATIVE AUDIT_ARCH_I386
#elif defined(__arm__) && defined(__ARM_EABI__)
#define NATIVE AUDIT_ARCH_ARM
#endif

#ifdef NATIVE

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define ARGUMENT(n) (offsetof(struct seccomp_data, args[n]) + 4)
#else
#define ARGUMENT(n) offsetof(struct seccomp_data, args[n])
#endif

#define LOAD(place) BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (place))
#define IF(value, then, otherwise) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(value), (then), (otherwise))
#define ALLOW BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define REFUSE BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

/* Of system call `number` the argument `n` must be our own process: five instructions, the number is in the accumulator. */
#define ONLY_FOR(number, n, own) IF(number, 0, 4), LOAD(ARGUMENT(n)), IF(own, 0, 1), ALLOW, REFUSE

/* Returns 0, or the errno. Without NoNewPrivileges= it does nothing: whoever runs it by hand may need fusermount3. */
static int vtpm_confine(void)
{
    uint32_t own = (uint32_t)getpid();
    struct sock_filter instructions[] = {
        LOAD(offsetof(struct seccomp_data, arch)),
        IF(NATIVE, 1, 0), REFUSE,
        LOAD(offsetof(struct seccomp_data, nr)),
#ifdef __x86_64__
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), REFUSE, /* x32 */
#endif
        ONLY_FOR(SYS_kill, 0, own),
        ONLY_FOR(SYS_tgkill, 0, own),
        /* The limits of another process: with no processor time or no open files it is as good as dead. 0: our own. */
        IF(SYS_prlimit64, 0, 5), LOAD(ARGUMENT(0)), IF(0, 1, 0), IF(own, 0, 1), ALLOW, REFUSE,
        /* Who gets a signal when a file is ready, and which: any, also SIGKILL. */
#ifdef SYS_fcntl64
        IF(SYS_fcntl64, 1, 0),
#endif
        IF(SYS_fcntl, 0, 6), LOAD(ARGUMENT(1)),
            IF(F_SETOWN, 3, 0), IF(F_SETOWN_EX, 2, 0), IF(F_SETSIG, 1, 0), ALLOW, REFUSE,
        IF(SYS_ioctl, 0, 5), LOAD(ARGUMENT(1)), IF(FIOSETOWN, 2, 0), IF(SIOCSPGRP, 1, 0), ALLOW, REFUSE,
        ALLOW,
    };
    struct sock_fprog program = {sizeof(instructions) / sizeof(instructions[0]), instructions};

    if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
        return 0;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) ? errno : 0;
}

#else

static int vtpm_confine(void)
{
    return ENOSYS;
}

#endif
