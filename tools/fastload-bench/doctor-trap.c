/*
 * fastload-bench doctor: userfaultfd.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tries what the kernel grants: the system call, the device, the features, a
 * page copied and a page moved.  Reads what explains a refusal: the sysctl, a
 * seccomp filter, the profile of a security module.
 */
#include "bench.h"
#include <grp.h>
#include <linux/userfaultfd.h>
#include <pwd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
/* ioctl_userfaultfd(2); headers may be older. */
#define FEATURE_WP_ASYNC (1ull << 15)
#define FEATURE_MOVE (1ull << 16)
#define TRAP_DEVICE "/dev/userfaultfd"

typedef struct TrapMove {
    uint64_t dst, src, len, mode;
    int64_t move;
} TrapMove;

#define UFFD_MOVE _IOWR(UFFDIO, 0x05, TrapMove)

static int trap_from_call(int flags)
{
    int fd = syscall(SYS_userfaultfd, flags | O_CLOEXEC | O_NONBLOCK);

    return fd < 0 ? -errno : fd;
}

static int trap_from_device(void)
{
    int dev_fd = open(TRAP_DEVICE, O_RDWR | O_CLOEXEC);
    int fd, ret;

    if (dev_fd < 0) {
        return -errno;
    }
    fd = ioctl(dev_fd, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    ret = fd < 0 ? -errno : fd;
    close(dev_fd);
    return ret;
}

/* By system call or device, as a load does it. */
static int trap_from_any(void)
{
    int fd = trap_from_call(0);

    return fd < 0 ? trap_from_device() : fd;
}

static int trap_close_errno(int fd)
{
    if (fd >= 0) {
        close(fd);
    }
    return fd < 0 ? -fd : 0;
}

char *doctor_trap_cause(const DoctorRefusal *refusal)
{
    if (refusal->call_errno == ENOSYS) {
        return g_strdup(refusal->is_filtered
            ? "the kernel lacks it, or the seccomp filter hides it"
            : "the kernel lacks it (CONFIG_USERFAULTFD)");
    }
    if (!refusal->user_mode_errno) {
        return g_strdup("it is granted for faults of user mode alone, and "
                        "KVM and QEMU's disks fault in the kernel: it takes "
                        "CAP_SYS_PTRACE, or one of the next two");
    }
    if (refusal->is_filtered && refusal->profile) {
        return g_strdup_printf("the seccomp filter or the profile '%s' "
                               "refuses it", refusal->profile);
    }
    if (refusal->is_filtered) {
        return g_strdup("a seccomp filter refuses it, as those of containers "
                        "do");
    }
    if (refusal->profile) {
        return g_strdup_printf("the profile '%s' of a security module refuses "
                               "it", refusal->profile);
    }
    return g_strdup_printf("the kernel refuses it: %s",
                           g_strerror(refusal->call_errno));
}

/* ---- what it can do ---- */

/* All features that a userfaultfd of this kernel has; 0: unknown. */
static uint64_t trap_features(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    int fd = trap_from_any();

    if (fd < 0) {
        fd = trap_from_call(UFFD_USER_MODE_ONLY);
    }
    if (fd < 0) {
        return 0;
    }
    if (ioctl(fd, UFFDIO_API, &api) < 0) {
        api.features = 0;
    }
    close(fd);
    return api.features;
}

/* Two pages, of which the first is registered and missing; or NULL. */
static uint8_t *trap_map(int fd, uint64_t features)
{
    struct uffdio_api api = { .api = UFFD_API, .features = features };
    uint8_t *map = mmap(NULL, 2 * BENCH_PAGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct uffdio_register reg = {
        .range = { .start = (uintptr_t)map, .len = BENCH_PAGE_BYTES },
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    if (map == MAP_FAILED) {
        return NULL;
    }
    if (ioctl(fd, UFFDIO_API, &api) < 0 ||
        ioctl(fd, UFFDIO_REGISTER, &reg) < 0) {
        munmap(map, 2 * BENCH_PAGE_BYTES);
        return NULL;
    }
    map[BENCH_PAGE_BYTES] = 'x';
    return map;
}

/* Can the second page be copied or moved to the first?  Else errno. */
static bool trap_try(bool is_move)
{
    int fd = trap_from_any();
    uint8_t *map = fd < 0 ? NULL : trap_map(fd, is_move ? FEATURE_MOVE : 0);
    bool is_done = false;
    int error_number = errno;

    if (map) {
        struct uffdio_copy copy = {
            .dst = (uintptr_t)map, .src = (uintptr_t)map + BENCH_PAGE_BYTES,
            .len = BENCH_PAGE_BYTES,
        };
        TrapMove move = {
            .dst = copy.dst, .src = copy.src, .len = copy.len,
        };

        is_done = ioctl(fd, is_move ? UFFD_MOVE : UFFDIO_COPY,
                        is_move ? (void *)&move : (void *)&copy) == 0;
        error_number = errno;
        /* Reading the page if it is missing would wait for ever. */
        is_done = is_done && *map == 'x';
        munmap(map, 2 * BENCH_PAGE_BYTES);
    }
    if (fd >= 0) {
        close(fd);
    }
    errno = error_number;
    return is_done;
}

static void trap_say_features(const Doctor *doctor, bool has_trap)
{
    uint64_t features = trap_features();
    DoctorVerdict none = features ? DOCTOR_NO : DOCTOR_UNKNOWN;
    bool has_shmem = features & UFFD_FEATURE_MISSING_SHMEM;
    bool has_hugetlb = features & UFFD_FEATURE_MISSING_HUGETLBFS;
    bool has_wp_async = features & FEATURE_WP_ASYNC;
    bool has_move = features & FEATURE_MOVE;
    bool is_moved = has_move && has_trap && trap_try(true);

    doctor_say(doctor, "trap-shmem", has_shmem ? DOCTOR_YES : none, NULL,
               has_shmem ? "memfd and share=on: loaded while the guest runs"
               : "memfd and share=on: loaded before the guest runs");
    doctor_say(doctor, "trap-hugetlb", has_hugetlb ? DOCTOR_YES : none, NULL,
               has_hugetlb
               ? "2 MiB pages of hugetlbfs: loaded while the guest runs"
               : "pages of hugetlbfs: loaded before the guest runs");
    if (is_moved) {
        doctor_say(doctor, "trap-move", DOCTOR_YES, NULL, "huge pages are "
                   "moved into the guest, and stay huge");
    } else if (has_move && has_trap) {
        doctor_say(doctor, "trap-move", DOCTOR_NO, NULL, "the kernel has it, "
                   "and it fails when tried (%s): pages are copied, huge ones "
                   "put together at the end", g_strerror(errno));
    } else {
        doctor_say(doctor, "trap-move", has_move ? DOCTOR_UNKNOWN : none,
                   NULL, has_move
                   ? "the kernel has it; not tried without userfaultfd"
                   : "Linux 6.8 has it; without, pages are copied, and huge "
                   "ones put together at the end");
    }
    doctor_say(doctor, "trap-wp-async", has_wp_async ? DOCTOR_YES : none,
               NULL, "makes no difference: no load uses it");
}

/* ---- is it permitted? ---- */

static bool trap_is_in_group(gid_t gid)
{
    gid_t groups[256];
    int count = getgroups(G_N_ELEMENTS(groups), groups);
    int i;

    for (i = 0; i < count && groups[i] != gid; i++) {
    }
    return i < count || getegid() == gid;
}

/* The command that permits it to this user. */
static char *trap_mend(const Doctor *doctor, const DoctorRefusal *refusal)
{
    uint64_t outer_uid;
    struct stat st;

    if (refusal->device_errno == EACCES &&
        doctor_is_in_namespace(doctor, geteuid(), &outer_uid)) {
        return g_strdup_printf("sudo setfacl -m u:%" PRIu64 ":rw " TRAP_DEVICE
                               " # on the host", outer_uid);
    }
    if (refusal->device_errno == EACCES && stat("/dev/kvm", &st) == 0 &&
        st.st_gid && trap_is_in_group(st.st_gid)) {
        return g_strdup("sudo chgrp --reference=/dev/kvm " TRAP_DEVICE
                        " && sudo chmod g+rw " TRAP_DEVICE);
    }
    if (refusal->device_errno == EACCES) {
        return g_strdup_printf("sudo setfacl -m u:%s:rw " TRAP_DEVICE,
                               doctor->user);
    }
    if (refusal->call_errno == ENOSYS && !refusal->is_filtered) {
        return NULL;
    }
    if (refusal->user_mode_errno) {
        return g_strdup("docker run --device " TRAP_DEVICE " ...");
    }
    return g_strdup("sudo sysctl vm.unprivileged_userfaultfd=1");
}

static void trap_say_ways(const Doctor *doctor, const DoctorRefusal *refusal,
                          bool has_trap)
{
    g_autofree char *cause = doctor_trap_cause(refusal);
    uint64_t sysctl = 0;
    struct stat st;

    doctor_say(doctor, "trap-call", refusal->call_errno ? DOCTOR_NO
                                                        : DOCTOR_YES, NULL,
               "userfaultfd(2)%s%s", refusal->call_errno ? ": "
               : " is granted, kernel faults included",
               refusal->call_errno ? cause : "");
    if (!refusal->device_errno) {
        doctor_say(doctor, "trap-device", DOCTOR_YES, NULL,
                   "may be opened and used: no other privilege is asked for");
    } else if (refusal->device_errno == ENOENT) {
        doctor_say(doctor, "trap-device", DOCTOR_NO, NULL, "is not there: "
                   "Linux 6.1 has it, and a container that is given it");
    } else if (refusal->device_errno == EACCES &&
               stat(TRAP_DEVICE, &st) == 0) {
        struct passwd *owner = getpwuid(st.st_uid);
        struct group *group = getgrgid(st.st_gid);

        doctor_say(doctor, "trap-device", DOCTOR_NO, NULL,
                   "is closed to this user: mode %o, owner %s, group %s",
                   st.st_mode & 07777, owner ? owner->pw_name : "?",
                   group ? group->gr_name : "?");
    } else {
        doctor_say(doctor, "trap-device", DOCTOR_NO, NULL,
                   "cannot be used: %s", g_strerror(refusal->device_errno));
    }
    if (!doctor_number(doctor, "/proc/sys/vm/unprivileged_userfaultfd",
                       &sysctl)) {
        doctor_say(doctor, "trap-sysctl", DOCTOR_UNKNOWN, NULL, "there is no "
                   "vm.unprivileged_userfaultfd: kernels before Linux 5.2 "
                   "ask for no privilege");
    } else {
        doctor_say(doctor, "trap-sysctl", sysctl ? DOCTOR_YES
                   : has_trap ? DOCTOR_UNKNOWN : DOCTOR_NO, NULL,
                   "vm.unprivileged_userfaultfd is %d: %s", (int)sysctl,
                   sysctl ? "the system call asks for no privilege"
                   : "others than root need the device");
    }
}

void doctor_trap_probe(const Doctor *doctor)
{
    g_autofree char *profile = doctor_profile(doctor);
    DoctorRefusal refusal = {
        .call_errno = trap_close_errno(trap_from_call(0)),
        .user_mode_errno =
            trap_close_errno(trap_from_call(UFFD_USER_MODE_ONLY)),
        .device_errno = trap_close_errno(trap_from_device()),
        .is_filtered = doctor_is_filtered(doctor), .profile = profile,
    };
    bool has_trap = !refusal.call_errno || !refusal.device_errno;

    if (!has_trap) {
        doctor_say(doctor, "trap", DOCTOR_MISSING,
                   trap_mend(doctor, &refusal), "is refused in both ways: "
                   "pages cannot come while the guest runs");
    } else if (!trap_try(false)) {
        doctor_say(doctor, "trap", DOCTOR_MISSING, NULL, "can be opened, and "
                   "no page can be placed with it: %s", g_strerror(errno));
    } else {
        doctor_say(doctor, "trap", DOCTOR_YES, NULL, "by %s; a page was "
                   "placed: the guest can run while pages are missing",
                   refusal.call_errno ? "the device" : "the system call");
    }
    trap_say_ways(doctor, &refusal, has_trap);
    if (refusal.is_filtered || profile) {
        doctor_say(doctor, "trap-confined", DOCTOR_NO, NULL,
                   "%s%s%s%s%s: what is refused here may be due to that",
                   refusal.is_filtered ? "a seccomp filter" : "",
                   refusal.is_filtered && profile ? " and " : "",
                   profile ? "the profile '" : "", profile ? profile : "",
                   profile ? "'" : "");
    } else {
        doctor_say(doctor, "trap-confined", DOCTOR_YES, NULL, "no seccomp "
                   "filter, no profile of AppArmor or SELinux");
    }
    trap_say_features(doctor, has_trap);
}
