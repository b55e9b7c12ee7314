/*
 * fastload-bench doctor: io_uring, huge pages, limits, KVM.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Tries what the kernel grants.  What it would grant to a larger guest, and why
 * it refuses something, is read from /proc and /sys.
 */
#include "bench.h"
#include <grp.h>
#include <linux/capability.h>
#include <linux/kvm.h>
#include <liburing.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

/* Locked memory of a worker's ring: see include/qemu/fastload.h. */
#define RING_BYTES 8192u
#define THREAD_COUNT_MAX 64u
#define DESCRIPTORS_A_THREAD 3u
/* A generous estimate of QEMU's own threads and descriptors. */
#define QEMU_THREAD_COUNT 64u
#define QEMU_DESCRIPTOR_COUNT 256u
#define SPANS_A_GIB 256u
/* QEMU alone, before any load, has some hundreds. */
#define MAP_COUNT_MIN 2000u

/* ---- what confines this process ---- */

bool doctor_is_filtered(const Doctor *doctor)
{
    g_autofree char *path = g_strconcat(doctor->root, "/proc/self/status",
                                        NULL);
    g_autofree char *text = NULL;
    const char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    at = strstr(text, "\nSeccomp:");
    return at && strtol(at + strlen("\nSeccomp:"), NULL, 10) > 0;
}

char *doctor_profile(const Doctor *doctor)
{
    g_autofree char *profile = doctor_line(doctor, "/proc/self/attr/current");
    uint64_t is_enforced = 0;

    if (!profile || !*profile || g_str_has_prefix(profile, "unconfined") ||
        g_str_has_suffix(profile, "(complain)") ||
        g_str_has_suffix(profile, "(unconfined)")) {
        return NULL;
    }
    /* An SELinux context has colons; it may be permissive, or unconfined. */
    if (strchr(profile, ':') &&
        (!doctor_number(doctor, "/sys/fs/selinux/enforce", &is_enforced) ||
         !is_enforced || strstr(profile, ":unconfined_t"))) {
        return NULL;
    }
    return g_steal_pointer(&profile);
}

bool doctor_is_in_namespace(const Doctor *doctor, uint64_t uid,
                            uint64_t *ret_outer_uid)
{
    g_autofree char *path = g_strconcat(doctor->root, "/proc/self/uid_map",
                                        NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    uint32_t i;

    *ret_outer_uid = uid;
    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    lines = g_strsplit(text, "\n", -1);
    for (i = 0; lines[i]; i++) {
        uint64_t first, outer, count;

        if (sscanf(lines[i], "%" SCNu64 " %" SCNu64 " %" SCNu64, &first,
                   &outer, &count) != 3) {
            continue;
        }
        if (!first && !outer && count == UINT32_MAX) {
            return false;
        }
        if (uid >= first && uid - first < count) {
            *ret_outer_uid = outer + (uid - first);
        }
    }
    return true;
}

bool doctor_has_capability(const Doctor *doctor, uint32_t capability)
{
    uint64_t outer_uid;
    struct __user_cap_header_struct header = {
        .version = _LINUX_CAPABILITY_VERSION_3,
    };
    struct __user_cap_data_struct caps[_LINUX_CAPABILITY_U32S_3] = { { 0 } };

    return !doctor_is_in_namespace(doctor, 0, &outer_uid) &&
           syscall(SYS_capget, &header, caps) == 0 &&
           caps[CAP_TO_INDEX(capability)].effective &
           CAP_TO_MASK(capability);
}

/* ---- reading ---- */

char *doctor_ring_cause(const DoctorRing *ring, const char *user,
                        char **ret_mend)
{
    bool is_denied = ring->error_number == EPERM ||
                     ring->error_number == EACCES;

    *ret_mend = NULL;
    if (is_denied && ring->disabled) {
        struct group *group = ring->disabled == 1 && ring->group >= 0
            ? getgrgid(ring->group) : NULL;

        *ret_mend = group
            ? g_strdup_printf("sudo usermod -aG %s %s", group->gr_name, user)
            : g_strdup("sudo sysctl kernel.io_uring_disabled=0");
        return g_strdup_printf("kernel.io_uring_disabled is %d", ring->disabled
                               > 1 ? 2 : 1);
    }
    if (is_denied) {
        return g_strdup(ring->is_filtered ? "a seccomp filter refuses it, as "
                        "those of containers do"
                        : "a security module refuses it");
    }
    switch (ring->error_number) {
    case ENOSYS:
        return g_strdup(ring->is_filtered ? "a seccomp filter hides it, or "
                        "the kernel lacks it" : "the kernel lacks it");
    case ENOMEM:
        *ret_mend = g_strdup("ulimit -l unlimited");
        return g_strdup("no locked memory is left for a ring");
    case EMFILE:
        *ret_mend = g_strdup("ulimit -n 4096");
        return g_strdup("no descriptor is left for a ring");
    }
    return g_strdup(g_strerror(ring->error_number));
}

/* Sets up a ring and submits a no-op; 0 or a positive errno. */
static int ring_try(void)
{
    struct io_uring ring;
    struct io_uring_sqe *sqe;
    int ret = io_uring_queue_init(4, &ring, 0);

    if (ret < 0) {
        return -ret;
    }
    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_nop(sqe);
    ret = io_uring_submit_and_wait(&ring, 1);
    io_uring_queue_exit(&ring);
    return ret < 0 ? -ret : 0;
}

static void say_ring(const Doctor *doctor)
{
    g_autofree char *text = doctor_line(doctor,
                                        "/proc/sys/kernel/io_uring_group");
    g_autofree char *cause = NULL;
    DoctorRing ring = {
        .error_number = ring_try(),
        .group = text ? g_ascii_strtoll(text, NULL, 10) : -1,
        .is_filtered = doctor_is_filtered(doctor),
    };
    char *mend;

    doctor_number(doctor, "/proc/sys/kernel/io_uring_disabled",
                  &ring.disabled);
    if (!ring.error_number) {
        doctor_say(doctor, "uring", DOCTOR_YES, NULL,
                   "a ring was set up and used");
        return;
    }
    cause = doctor_ring_cause(&ring, doctor->user, &mend);
    doctor_say(doctor, "uring", DOCTOR_NO, mend, "%s: threads read with "
               "preadv, and QEMU warns once", cause);
}

static void say_ring_memory(const Doctor *doctor)
{
    struct rlimit limit = { RLIM_INFINITY, RLIM_INFINITY };
    uint64_t count;

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur == RLIM_INFINITY ||
        doctor_has_capability(doctor, CAP_IPC_LOCK)) {
        doctor_say(doctor, "uring-memory", DOCTOR_YES, NULL,
                   "no limit of locked memory (ulimit -l)");
        return;
    }
    count = limit.rlim_cur / RING_BYTES;
    doctor_say(doctor, "uring-memory", count < THREAD_COUNT_MAX ? DOCTOR_NO
                                                                : DOCTOR_YES,
               count < THREAD_COUNT_MAX ? g_strdup("ulimit -l 8192") : NULL,
               "ulimit -l is %" PRIu64 " KiB: rings for %" PRIu64 " threads "
               "of this user, all its guests together%s",
               (uint64_t)limit.rlim_cur >> 10, count,
               count < THREAD_COUNT_MAX ? "; others read with preadv" : "");
}

void doctor_reading_probe(const Doctor *doctor)
{
    say_ring(doctor);
    say_ring_memory(doctor);
}

/* ---- huge pages and mappings ---- */

/* Collapses 2 MiB of small pages; 0 or a positive errno. */
static int collapse_try(void)
{
    uint8_t *map = mmap(NULL, 2 * BENCH_HUGE_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uint8_t *hva;
    int ret;

    if (map == MAP_FAILED) {
        return errno;
    }
    hva = (uint8_t *)(((uintptr_t)map + BENCH_HUGE_BYTES - 1) &
                      ~(uintptr_t)(BENCH_HUGE_BYTES - 1));
    madvise(hva, BENCH_HUGE_BYTES, MADV_NOHUGEPAGE);
    *hva = 1;
    madvise(hva, BENCH_HUGE_BYTES, MADV_HUGEPAGE);
    ret = madvise(hva, BENCH_HUGE_BYTES, MADV_COLLAPSE) < 0 ? errno : 0;
    munmap(map, 2 * BENCH_HUGE_BYTES);
    return ret;
}

static void say_huge(const Doctor *doctor)
{
    static const char path[] = "/sys/kernel/mm/transparent_hugepage/enabled";
    g_autofree char *enabled = doctor_line(doctor, path);
    bool is_denied = prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1;

    if (!enabled) {
        doctor_say(doctor, "thp", DOCTOR_NO, NULL, "this kernel has no "
                   "transparent huge pages: the guest gets pages of 4 KiB, "
                   "as without fast load");
    } else if (is_denied) {
        doctor_say(doctor, "thp", DOCTOR_NO, NULL, "this process may have "
                   "none (PR_SET_THP_DISABLE): the guest gets pages of 4 KiB");
    } else if (!strcmp(enabled, "never")) {
        doctor_say(doctor, "thp", DOCTOR_NO,
                   g_strdup_printf("echo madvise | sudo tee %s", path),
                   "'never': the guest gets pages of 4 KiB, as without fast "
                   "load");
    } else {
        doctor_say(doctor, "thp", DOCTOR_YES, NULL, "'%s': the guest keeps "
                   "its transparent huge pages", enabled);
    }
}

static void say_collapse(const Doctor *doctor)
{
    int ret = collapse_try();

    doctor_say(doctor, "thp-collapse", ret ? DOCTOR_NO : DOCTOR_YES, NULL,
               ret == 0 ? "small pages become huge ones when all is loaded"
               : ret == EINVAL ? "Linux 6.1 has it, where huge pages are on; "
               "without, small pages stay small after the load"
               : "fails when tried: small pages stay small after the load");
}

static void say_shmem_huge(const Doctor *doctor)
{
    static const char path[] =
        "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    g_autofree char *enabled = doctor_line(doctor, path);
    bool is_on = enabled && strcmp(enabled, "never") &&
                 strcmp(enabled, "deny");

    doctor_say(doctor, "thp-shmem", enabled ? is_on ? DOCTOR_YES : DOCTOR_NO
               : DOCTOR_UNKNOWN,
               enabled && !is_on
               ? g_strdup_printf("echo advise | sudo tee %s", path) : NULL,
               "'%s': memfd and share=on have %s", enabled ? enabled : "?",
               is_on ? "huge pages, too" : "pages of 4 KiB, as without fast "
               "load");
}

static void say_hugetlb(const Doctor *doctor)
{
    static const char folder[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/";
    g_autofree char *total_path = g_strconcat(folder, "nr_hugepages", NULL);
    g_autofree char *free_path = g_strconcat(folder, "free_hugepages", NULL);
    g_autofree char *size = NULL;
    uint64_t total = 0, free_count = 0;

    doctor_number(doctor, total_path, &total);
    doctor_number(doctor, free_path, &free_count);
    size = text_bytes((double)free_count * BENCH_HUGE_BYTES);
    if (!total) {
        doctor_say(doctor, "hugetlb", DOCTOR_UNKNOWN, NULL, "none is set "
                   "aside (vm.nr_hugepages); only memory backends with "
                   "hugetlb need them");
        return;
    }
    doctor_say(doctor, "hugetlb", free_count ? DOCTOR_YES : DOCTOR_NO, NULL,
               "%" PRIu64 " of %" PRIu64 " are free: a guest of up to %s on "
               "hugetlb", free_count, total, size);
}

void doctor_huge_probe(const Doctor *doctor)
{
    uint64_t count = 0;

    say_huge(doctor);
    say_collapse(doctor);
    say_shmem_huge(doctor);
    say_hugetlb(doctor);
    if (!doctor_number(doctor, "/proc/sys/vm/max_map_count", &count)) {
        doctor_say(doctor, "map-count", DOCTOR_UNKNOWN, NULL,
                   "cannot be read");
    } else if (count < MAP_COUNT_MIN) {
        doctor_say(doctor, "map-count", DOCTOR_NO,
                   g_strdup("sudo sysctl vm.max_map_count=65530"),
                   "%" PRIu64 ": QEMU alone may need that many", count);
    } else {
        doctor_say(doctor, "map-count", DOCTOR_YES, NULL, "%" PRIu64 ": zero "
                   "runs cost nothing in a guest of any shape up to %" PRIu64
                   " GiB; in larger ones some zeros may be trapped", count,
                   count / DOCTOR_SPAN_SHARE / SPANS_A_GIB);
    }
}

/* ---- limits ---- */

static void say_cgroup_memory(const Doctor *doctor)
{
    CgroupMemory memory;
    g_autofree char *limit = NULL, *rest = NULL;

    cgroup_get_memory(doctor->root, &memory);
    if (memory.limit_bytes == CGROUP_UNLIMITED) {
        doctor_say(doctor, "cgroup-memory", DOCTOR_YES, NULL, "no limit");
        return;
    }
    limit = text_bytes(memory.limit_bytes);
    rest = text_bytes(memory.free_bytes);
    doctor_say(doctor, "cgroup-memory", DOCTOR_NO, NULL, "%s at most, %s are "
               "left: the kernel ends a guest that needs more", limit, rest);
}

static void say_cgroup_rest(const Doctor *doctor)
{
    double quota = cgroup_get_cpu_quota(doctor->root);
    uint64_t free_pids = cgroup_get_free_pids(doctor->root);
    bool has_threads = free_pids >= THREAD_COUNT_MAX + QEMU_THREAD_COUNT;

    if (quota == 0) {
        doctor_say(doctor, "cgroup-cpu", DOCTOR_YES, NULL, "no quota");
    } else {
        doctor_say(doctor, "cgroup-cpu", quota < 1 ? DOCTOR_NO : DOCTOR_YES,
                   NULL, "%.2f CPUs for vCPUs and threads of the load "
                   "together%s", quota, quota < 1 ? ": where that is used up, "
                   "faults wait for the next period" : "");
    }
    if (free_pids == CGROUP_UNLIMITED) {
        doctor_say(doctor, "cgroup-pids", DOCTOR_YES, NULL, "no limit");
    } else {
        doctor_say(doctor, "cgroup-pids", has_threads ? DOCTOR_YES
                                                      : DOCTOR_NO, NULL,
                   "%" PRIu64 " more: %s", free_pids, has_threads
                   ? "enough for any load" : "a load that gets no thread is "
                   "refused before the guest runs");
    }
}

void doctor_limits_probe(const Doctor *doctor)
{
    struct rlimit limit = { 0, 0 };
    bool has_enough;

    say_cgroup_memory(doctor);
    say_cgroup_rest(doctor);
    getrlimit(RLIMIT_NOFILE, &limit);
    has_enough = limit.rlim_cur >= QEMU_DESCRIPTOR_COUNT +
                 THREAD_COUNT_MAX * DESCRIPTORS_A_THREAD;
    doctor_say(doctor, "nofile", has_enough ? DOCTOR_YES : DOCTOR_NO,
               has_enough ? NULL : g_strdup("ulimit -n 1024"),
               "%" PRIu64 " descriptors: %s", (uint64_t)limit.rlim_cur,
               has_enough ? "enough for any load" : "a load that gets none is "
               "refused before the guest runs");
}

/* ---- KVM ---- */

/* Does /proc/cpuinfo list this flag of a processor? */
static bool cpu_has(const Doctor *doctor, const char *flag)
{
    g_autofree char *path = g_strconcat(doctor->root, "/proc/cpuinfo", NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;
    char *at;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    at = strstr(text, "\nflags");
    if (!at) {
        return false;
    }
    at++;
    at[strcspn(at, "\n")] = '\0';
    words = g_strsplit(at, " ", -1);
    return g_strv_contains((const char *const *)words, flag);
}

static bool has_module(const Doctor *doctor, const char *name)
{
    g_autofree char *path = g_strconcat(doctor->root, "/sys/module/", name,
                                        NULL);

    return g_file_test(path, G_FILE_TEST_IS_DIR);
}

static void say_kvm_kind(const Doctor *doctor)
{
    bool is_hardware = has_module(doctor, "kvm_intel") ||
                       has_module(doctor, "kvm_amd");
    bool is_nested = cpu_has(doctor, "hypervisor");

    if (has_module(doctor, "kvm_pvm")) {
        doctor_say(doctor, "kvm-hardware", DOCTOR_NO, NULL, "the module "
                   "kvm_pvm: software; guests run, and slowly");
    } else if (is_hardware) {
        doctor_say(doctor, "kvm-hardware", DOCTOR_YES, NULL, "the processor "
                   "virtualises%s", is_nested ? ", nested: this host is a "
                   "guest itself, and faults cost more" : "");
    } else {
        doctor_say(doctor, "kvm-hardware", DOCTOR_UNKNOWN, NULL, "which "
                   "module of KVM that is cannot be told");
    }
}

void doctor_kvm_probe(const Doctor *doctor)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    int error_number = errno;

    if (fd >= 0 && ioctl(fd, KVM_GET_API_VERSION, 0) == KVM_API_VERSION) {
        doctor_say(doctor, "kvm", DOCTOR_YES, NULL, "may be opened");
        say_kvm_kind(doctor);
    } else if (fd >= 0) {
        doctor_say(doctor, "kvm", DOCTOR_NO, NULL, "speaks another language: "
                   "only TCG is left, with which loads work as well");
    } else {
        doctor_say(doctor, "kvm", DOCTOR_NO, error_number == EACCES
                   ? g_strdup_printf("sudo usermod -aG kvm %s", doctor->user)
                   : NULL, "%s: only TCG is left, with which loads work as "
                   "well", g_strerror(error_number));
    }
    if (fd >= 0) {
        close(fd);
    }
}
