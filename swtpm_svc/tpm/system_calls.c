/*
 * The system calls that a TPM has no use for, refused for good: what swtpm's --seccomp asks for.
 *
 * A list of what is denied, as swtpm(8) has it: whoever took the process over gets no other program, mount, tracer,
 * device or message queue by it. The unit's own filter (SystemCallFilter=) is a list of what is allowed, and stricter;
 * this one is for who starts a TPM without systemd. confinement.c has the instructions.
 */

#ifdef NATIVE

#ifndef SECCOMP_RET_LOG
#define SECCOMP_RET_LOG 0x7ffc0000U
#endif
#ifndef SECCOMP_RET_KILL_PROCESS
#define SECCOMP_RET_KILL_PROCESS 0x80000000U
#endif

static const uint32_t denied[] = {
    /* other programs, and other processes */
    SYS_execve, SYS_execveat, SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev, SYS_kcmp, SYS_tkill,
    SYS_prlimit64, SYS_setns, SYS_unshare, SYS_personality,
    /* the machine */
    SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_reboot, SYS_kexec_load, SYS_init_module, SYS_finit_module,
    SYS_delete_module, SYS_swapon, SYS_swapoff, SYS_acct, SYS_quotactl, SYS_sethostname, SYS_setdomainname,
    SYS_settimeofday, SYS_clock_settime, SYS_clock_adjtime, SYS_adjtimex, SYS_syslog, SYS_vhangup, SYS_bpf,
    SYS_perf_event_open, SYS_fanotify_init, SYS_fanotify_mark, SYS_lookup_dcookie, SYS_nfsservctl,
    SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_mknodat,
#ifdef SYS_mknod
    SYS_mknod,
#endif
#ifdef SYS_iopl
    SYS_iopl,
#endif
#ifdef SYS_ioperm
    SYS_ioperm,
#endif
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_userfaultfd
    SYS_userfaultfd,
#endif
    SYS_add_key, SYS_request_key, SYS_keyctl,
    /* extended attributes */
    SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr, SYS_getxattr,
    SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
    /* messages and events */
    SYS_mq_open, SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive, SYS_mq_notify, SYS_mq_getsetattr,
#ifdef SYS_msgget
    SYS_msgget, SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_semget, SYS_semop, SYS_semctl, SYS_shmget, SYS_shmat,
    SYS_shmctl, SYS_shmdt,
#endif
    SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch, SYS_eventfd2, SYS_timerfd_create,
    SYS_timerfd_settime, SYS_timerfd_gettime, SYS_timer_create,
#ifdef SYS_inotify_init
    SYS_inotify_init, SYS_eventfd,
#endif
};

enum { DENIED = sizeof(denied) / sizeof(denied[0]) };

/* Returns 0, or the errno. No new privileges from here on, which the filter takes. */
static int vtpm_deny_system_calls(int is_only_logged)
{
    struct sock_filter program[DENIED + 8];
    uint32_t action = is_only_logged ? SECCOMP_RET_LOG : SECCOMP_RET_KILL_PROCESS;
    unsigned short size = 0;

    program[size++] = (struct sock_filter)LOAD(offsetof(struct seccomp_data, arch));
    program[size++] = (struct sock_filter)IF(NATIVE, 1, 0);
    program[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
    program[size++] = (struct sock_filter)LOAD(offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < DENIED; i++) /* to the last instruction but one */
        program[size++] = (struct sock_filter)IF(denied[i], DENIED - i, 0);
    program[size++] = (struct sock_filter)ALLOW;
    program[size++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);

    struct sock_fprog filter = {size, program};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return errno;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) ? errno : 0;
}

#else

static int vtpm_deny_system_calls(int is_only_logged)
{
    (void)is_only_logged;
    return ENOSYS;
}

#endif
